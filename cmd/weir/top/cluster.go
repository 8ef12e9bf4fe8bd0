package top

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
)

// cluster is what the stream has told so far.
type cluster struct {
	status  api.Status
	nodes   []api.Node
	nodesAt time.Time // when they came, for what counts down
	hosts   map[string]api.Host
	use     api.UseFrame // the last one, without its hosts
	event   *api.Event   // the newest
	// held is, by host and node, what was granted last to nodes that answer no more.
	held map[string]map[string]int64
	// number is each node's place among the colours and letters, which it keeps.
	number map[string]int
}

func newCluster() cluster {
	return cluster{hosts: map[string]api.Host{}, held: map[string]map[string]int64{}, number: map[string]int{}}
}

// take adds what the stream tells. It reports whether that was a use frame, which comes last of
// each second's.
func (c *cluster) take(now time.Time, n api.Notice) bool {
	switch {
	case n.Status != nil:
		c.status = *n.Status
	case n.Nodes != nil:
		c.nodes, c.nodesAt = n.Nodes.Nodes, now
		for _, node := range c.nodes {
			c.numberOf(node.Name)
		}
	case n.Event != nil:
		if c.event == nil || !n.Event.Time.Before(c.event.Time) {
			c.event = n.Event
		}
	case n.Use != nil:
		c.takeUse(*n.Use)
		return true
	}
	return false
}

func (c *cluster) takeUse(u api.UseFrame) {
	if u.Full {
		kept := make(map[string]bool, len(u.Hosts))
		for _, h := range u.Hosts {
			kept[h.Host] = true
		}
		maps.DeleteFunc(c.hosts, func(name string, _ api.Host) bool { return !kept[name] })
	}
	for _, h := range u.Hosts {
		c.hold(c.hosts[h.Host], h)
		c.hosts[h.Host] = h
	}
	for _, name := range u.Gone {
		delete(c.hosts, name)
	}
	maps.DeleteFunc(c.held, func(name string, _ map[string]int64) bool {
		_, there := c.hosts[name]
		return !there
	})
	u.Hosts, u.Gone = nil, nil
	c.use = u
}

// hold remembers what nodes that a host's use no longer names were granted: nobody else has it
// before it is reclaimed.
func (c *cluster) hold(before, now api.Host) {
	held := c.held[now.Host]
	for node, use := range before.Nodes {
		if _, there := now.Nodes[node]; !there && use.Granted > 0 {
			if held == nil {
				held = map[string]int64{}
				c.held[now.Host] = held
			}
			held[node] = use.Granted
		}
	}
	for node := range now.Nodes {
		delete(held, node)
	}
}

// heldBy is what nodes whose slots are not reclaimed yet hold of a host.
func (c *cluster) heldBy(host string) map[string]int64 {
	held := c.held[host]
	if len(held) == 0 {
		return nil
	}
	out := map[string]int64{}
	for _, n := range c.nodes {
		if slots := held[n.Name]; slots > 0 && n.ReclaimIn != nil {
			out[n.Name] = slots
		}
	}
	return out
}

func (c *cluster) numberOf(node string) int {
	n, ok := c.number[node]
	if !ok {
		n = len(c.number)
		c.number[node] = n
	}
	return n
}

// rate is what happens per second.
type rate struct{ admitted, refused float64 }

func (r rate) add(o rate) rate { return rate{r.admitted + o.admitted, r.refused + o.refused} }

// hostRow is a host as it is shown.
type hostRow struct {
	api.Host
	rate
	rates map[string]rate  // by node, where they are not zero
	held  map[string]int64 // by nodes that are gone
}

// note adds a node's rates.
func (h *hostRow) note(node string, r rate) {
	if r == (rate{}) {
		return
	}
	if h.rates == nil {
		h.rates = map[string]rate{}
	}
	h.rates[node], h.rate = r, h.rate.add(r)
}

// nodeRow is a node as it is shown, with its use of all hosts.
type nodeRow struct {
	api.Node
	rate
	inUse, idle, granted, waiting int64
	open                          bool // it is in the sums
}

// picture is the cluster at one moment, against an earlier one.
type picture struct {
	at     time.Time // by the node's clock
	hosts  []*hostRow
	nodes  []nodeRow
	total  api.Use
	rate   rate
	before map[string]api.Host // what the next one's rates are counted from
	event  *api.Event
	rated  bool // there was an earlier one
}

// picture is what there is now. Rates are counted from the last picture; they are zero where time
// went backwards since.
func (c *cluster) picture(last *picture) *picture {
	p := &picture{at: c.use.Time, before: maps.Clone(c.hosts), event: c.event}
	var passed time.Duration
	if last != nil {
		passed = c.use.Time.Sub(last.at)
	}
	p.rated = passed > 0
	nodes := map[string]*nodeRow{}
	for _, n := range c.nodes {
		nodes[n.Name] = &nodeRow{Node: n}
	}
	for name, h := range c.hosts {
		row := &hostRow{Host: h, held: c.heldBy(name)}
		for node, use := range h.Nodes {
			var r rate
			if passed > 0 {
				r = ratesOf(last.before[name].Nodes, node, use, passed)
				row.note(node, r)
			}
			if n := nodes[node]; n != nil {
				n.sum(use, r)
			}
		}
		p.sum(row)
		p.hosts = append(p.hosts, row)
	}
	for _, n := range c.nodes {
		p.nodes = append(p.nodes, *nodes[n.Name])
	}
	slices.SortFunc(p.nodes, func(a, b nodeRow) int { return strings.Compare(a.Name, b.Name) })
	return p
}

func (n *nodeRow) sum(u api.Use, r rate) {
	n.inUse, n.idle, n.granted, n.waiting, n.open = n.inUse+u.InUse, n.idle+u.Idle, n.granted+u.Granted, n.waiting+u.Waiting, true
	n.rate = n.rate.add(r)
}

func (p *picture) sum(h *hostRow) {
	p.total.InUse += h.InUse
	p.total.Idle += h.Idle
	p.total.Granted += h.Granted
	p.total.Waiting += h.Waiting
	p.rate = p.rate.add(h.rate)
}

// ratesOf counts from what a node told before. Where it told nothing nothing is known; where it has
// fewer than before it has started again.
func ratesOf(before map[string]api.Use, node string, now api.Use, passed time.Duration) rate {
	was, ok := before[node]
	if !ok {
		return rate{}
	}
	return rate{
		admitted: float64(now.Admitted-min(was.Admitted, now.Admitted)) / passed.Seconds(),
		refused:  float64(now.Rejected-min(was.Rejected, now.Rejected)) / passed.Seconds(),
	}
}

// order is what hosts are sorted by.
type order struct {
	name    string // as --sort has it
	title   string
	key     string
	compare func(a, b *hostRow) int // the first first
}

func orders() []order {
	return []order{
		{"host", "HOST", "h", func(a, b *hostRow) int { return 0 }},
		{"in_use", "IN USE", "u", func(a, b *hostRow) int { return cmp.Compare(b.InUse, a.InUse) }},
		{"granted", "GRANTED", "g", func(a, b *hostRow) int { return cmp.Compare(b.Granted, a.Granted) }},
		{"waiting", "WAITING", "w", func(a, b *hostRow) int { return cmp.Compare(b.Waiting, a.Waiting) }},
		{"admitted_total", "ADM/S", "a", func(a, b *hostRow) int {
			return cmp.Or(cmp.Compare(b.admitted, a.admitted), cmp.Compare(b.Admitted, a.Admitted))
		}},
		{"rejected_total", "REF/S", "r", func(a, b *hostRow) int {
			return cmp.Or(cmp.Compare(b.refused, a.refused), cmp.Compare(b.Rejected, a.Rejected))
		}},
	}
}

// arrange is the hosts that pass a filter, in order. Equal ones are by name, so that nothing
// flickers.
func arrange(hosts []*hostRow, o order, reverse bool, passes func(string) bool) []*hostRow {
	var out []*hostRow
	for _, h := range hosts {
		if passes(h.Host.Host) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *hostRow) int {
		c := cmp.Or(o.compare(a, b), strings.Compare(a.Host.Host, b.Host.Host))
		if reverse {
			return -c
		}
		return c
	})
	return out
}
