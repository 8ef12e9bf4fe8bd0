package api

import (
	"cmp"
	"slices"
	"sync"

	"github.com/weirproxy/weir/fsm"
)

// otherHosts is the label that stands for all hosts without a place of their own.
const otherHosts = "other"

// hostPlaces bounds the hosts that metrics name: a proxy may see hundreds of thousands, and each
// would be a time series. A bounded number have a place; the others share the label "other".
//
// A host keeps its place for as long as the node knows the host, so that a series does not come and
// go with every scrape. Hosts with a limit come first, and take the places of those without. No
// counter ever falls: an admission stays counted under the name that its host had then.
type hostPlaces struct {
	mu    sync.Mutex
	most  int
	named map[string]*hostTotals
	other hostTotals
	seen  map[string]hostTotals // the last counters of every host that the node knows
}

// hostTotals are the counters of one name.
type hostTotals struct{ admitted, rejected uint64 }

func (t *hostTotals) add(o hostTotals) {
	t.admitted += o.admitted
	t.rejected += o.rejected
}

// since returns the increase after before. A host that was forgotten meanwhile has started again at
// zero.
func (t hostTotals) since(before hostTotals) hostTotals {
	if t.admitted < before.admitted || t.rejected < before.rejected {
		return t
	}
	return hostTotals{t.admitted - before.admitted, t.rejected - before.rejected}
}

// hostSeries holds the numbers under one name.
type hostSeries struct {
	name                    string
	limit                   *int64 // nil: no cap, or many
	granted, inUse, waiting int64
	hostTotals
}

// newHostPlaces has room for so many names beside "other"; with 0, all hosts share "other".
func newHostPlaces(most int) *hostPlaces {
	return &hostPlaces{most: most, named: map[string]*hostTotals{}, seen: map[string]hostTotals{}}
}

// setMost changes the number of names. From the next scrape on, hosts above it count under "other".
func (h *hostPlaces) setMost(most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = most
}

// update takes the node's hosts and returns the series for them, "other" last.
func (h *hostPlaces) update(uses []NodeUse, table *fsm.Table) []hostSeries {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(uses)
	h.place(uses, table)
	series := make([]hostSeries, 0, len(h.named)+1)
	other := hostSeries{name: otherHosts}
	for _, u := range uses {
		now := hostTotals{u.Admitted, u.Rejected}
		news := now.since(h.seen[u.Key.Name])
		h.seen[u.Key.Name] = now
		totals, ok := h.named[u.Key.Name]
		if !ok {
			h.other.add(news)
			other.granted += u.Granted
			other.inUse += u.InUse
			other.waiting += u.Waiting
			continue
		}
		totals.add(news)
		s := hostSeries{name: u.Key.Name, granted: u.Granted, inUse: u.InUse, waiting: u.Waiting, hostTotals: *totals}
		if l := table.Governing(u.Key); l.Capped() {
			n := l.Connections
			s.limit = &n
		}
		series = append(series, s)
	}
	other.hostTotals = h.other
	return append(series, other)
}

// forget drops hosts that the node no longer knows.
func (h *hostPlaces) forget(uses []NodeUse) {
	known := make(map[string]bool, len(uses))
	for _, u := range uses {
		known[u.Key.Name] = true
	}
	for name := range h.seen {
		if !known[name] {
			delete(h.seen, name)
			delete(h.named, name)
		}
	}
}

// place gives names to the most important hosts: those with a limit, then the busiest.
func (h *hostPlaces) place(uses []NodeUse, table *fsm.Table) {
	capped := func(u NodeUse) bool { return table.Governing(u.Key).Capped() }
	var placed, waiting []NodeUse
	settled := true // a host with a name keeps it
	for _, u := range uses {
		_, named := h.named[u.Key.Name]
		switch {
		case u.Key.Name == otherHosts: // a host of that name would be taken for all others
		case named:
			placed = append(placed, u)
			settled = settled && capped(u)
		default:
			waiting = append(waiting, u)
		}
	}
	if len(placed) == h.most && settled {
		return
	}
	more := func(a, b NodeUse) int {
		return cmp.Or(compareBool(capped(b), capped(a)), cmp.Compare(b.Waiting+b.InUse, a.Waiting+a.InUse),
			cmp.Compare(b.Admitted, a.Admitted), a.Key.Compare(b.Key))
	}
	slices.SortFunc(placed, more)
	slices.SortFunc(waiting, more)
	drop := func() { // the last of those with a name
		last := len(placed) - 1
		delete(h.named, placed[last].Key.Name)
		placed = placed[:last]
	}
	for len(placed) > h.most {
		drop()
	}
	for _, u := range waiting {
		if len(h.named) == h.most {
			if len(placed) == 0 || capped(placed[len(placed)-1]) || !capped(u) {
				return
			}
			drop()
		}
		h.named[u.Key.Name] = &hostTotals{}
	}
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
