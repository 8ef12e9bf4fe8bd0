package server

import (
	"cmp"
	"slices"
	"sync"

	"github.com/weirproxy/weir/limit"
)

// otherHosts is the label that stands for all names without a place of their own.
const otherHosts = "other"

// hostPlaces bounds the names of a scope, such as hosts, that metrics show: a proxy may see
// hundreds of thousands, and each would be a time series. A bounded number have a place; the others
// share the label "other".
//
// A name keeps its place for as long as the node knows it, so that a series does not come and go
// with every scrape. Names with a limit come first, and take the places of those without. No
// counter ever falls: an admission stays counted under the name that its host had then.
type hostPlaces struct {
	mu    sync.Mutex
	most  int
	named map[string]*hostTotals
	other hostTotals
	seen  map[string]hostTotals // the last counters of every name that the node knows
}

// counts are the counters of one resource.
type counts struct{ admitted, rejected, wouldReject uint64 }

func (c *counts) add(o counts) {
	c.admitted += o.admitted
	c.rejected += o.rejected
	c.wouldReject += o.wouldReject
}

// since returns the increase after before. What was forgotten meanwhile has started again at zero.
func (c counts) since(before counts) counts {
	if c.admitted < before.admitted || c.rejected < before.rejected || c.wouldReject < before.wouldReject {
		return c
	}
	return counts{c.admitted - before.admitted, c.rejected - before.rejected, c.wouldReject - before.wouldReject}
}

// hostTotals are the counters of one name: of its connections, and, while a limit caps it, of each
// resource.
type hostTotals struct {
	counts
	capped [limit.Download + 1]counts // by resource
}

// countersOf are the counters that a node's use has now.
func countersOf(u NodeUse) (t hostTotals) {
	t.counts = counts{u.Admitted, u.Rejected, u.WouldReject}
	t.capped[limit.Connections] = t.counts
	for r, n := range u.Rates {
		t.capped[r] = counts{n.Admitted, n.Rejected, n.WouldReject}
	}
	return t
}

// take adds the increase from before to now, of the resources that l caps.
func (t *hostTotals) take(before, now hostTotals, l *limit.Limit) {
	t.add(now.since(before.counts))
	for _, r := range limit.Resources {
		if l.Caps(r) {
			t.capped[r].add(now.capped[r].since(before.capped[r]))
		}
	}
}

// hostSeries holds the numbers under one name.
type hostSeries struct {
	name                    string
	own                     bool   // of each connection alone: it has totals, and nothing at a moment
	limit                   *int64 // nil: no cap, or many
	granted, inUse, waiting int64
	hostTotals
	resources [limit.Download + 1]resourceSeries
}

// resourceSeries holds the numbers of one resource under one name, while a limit caps it. Rates are
// in requests or bytes a second.
type resourceSeries struct {
	shown                         bool
	limit, granted, used, waiting float64 // no limit under "other"
}

// note adds a node's use of the resources that l caps.
func (s *hostSeries) note(u NodeUse, l *limit.Limit) {
	s.granted += u.Granted
	s.inUse += u.InUse
	s.waiting += u.Waiting
	for _, r := range limit.Resources {
		if !l.Caps(r) {
			continue
		}
		to := &s.resources[r]
		to.shown = true
		if r == limit.Connections {
			to.limit = float64(l.Connections)
			to.granted += float64(u.Granted)
			to.used += float64(u.InUse)
			to.waiting += float64(u.Waiting)
			continue
		}
		n := u.Rates[r]
		to.limit = rateUse(u, l, r).Rate
		to.granted += n.Granted
		to.used += n.Now
		to.waiting += float64(n.Waiting)
	}
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
func (h *hostPlaces) update(uses []NodeUse, table *limit.Table) []hostSeries {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(uses)
	h.place(uses, table)
	series := make([]hostSeries, 0, len(h.named)+1)
	other := hostSeries{name: otherHosts}
	for _, u := range uses {
		l := table.Governing(u.Key)
		before, now := h.seen[u.Key.Name], countersOf(u)
		h.seen[u.Key.Name] = now
		totals, ok := h.named[u.Key.Name]
		if !ok {
			h.other.take(before, now, l)
			other.note(u, l)
			continue
		}
		totals.take(before, now, l)
		s := hostSeries{name: u.Key.Name, own: u.Key.Scope == limit.ScopeConnection, hostTotals: *totals}
		s.note(u, l)
		if l.Capped() {
			n := l.Connections
			s.limit = &n
		}
		series = append(series, s)
	}
	other.hostTotals = h.other
	for _, r := range limit.Resources { // a counter that there was stays
		other.resources[r].shown = other.resources[r].shown || h.other.capped[r] != counts{}
	}
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
func (h *hostPlaces) place(uses []NodeUse, table *limit.Table) {
	capped := func(u NodeUse) bool { return limited(table.Governing(u.Key)) }
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

// limited reports whether a limit caps anything.
func limited(l *limit.Limit) bool { return slices.ContainsFunc(limit.Resources, l.Caps) }

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

// scopePlaces are the places of every scope that counts.
type scopePlaces map[limit.Scope]*hostPlaces

// countedScopes are the scopes that count, in the order in which a connection asks them.
var countedScopes = []limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost, limit.ScopeKey, limit.ScopeConnection}

func newScopePlaces(most int) scopePlaces {
	p := scopePlaces{}
	for _, scope := range countedScopes {
		p[scope] = newHostPlaces(most)
	}
	p.setMost(most)
	return p
}

// setMost changes the number of names in each scope. The one of scope total always has its place.
func (p scopePlaces) setMost(most int) {
	for scope, h := range p {
		if scope.Bare() {
			h.setMost(1)
			continue
		}
		h.setMost(most)
	}
}
