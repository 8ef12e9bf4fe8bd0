package gost

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// slot is what one number is for.
type slot struct {
	pattern  limit.Pattern
	resource limit.Resource
}

// entry is a number, and the line that has it.
type entry struct {
	value value
	at    int
}

// book is what all limiters say.
type book struct {
	entries map[slot]entry
	// open has the lines of networks that leave a bandwidth uncapped: to GOST they go before those of
	// narrower networks all the same.
	open map[slot]int
}

// take notes a number. Of two limiters' the lower counts.
func (c *converter) take(s slot, e entry) {
	if c.entries == nil {
		c.entries = map[slot]entry{}
	}
	have, twice := c.entries[s]
	if !twice {
		c.entries[s] = e
		return
	}
	low, high := have, e
	if e.less(have) {
		low, high = e, have
	}
	c.entries[s] = low
	c.warnf(high.at, "line %d says less for the same: it is taken for both", low.at)
}

func (c *converter) leaveOpen(s slot, at int) {
	if c.open == nil {
		c.open = map[slot]int{}
	}
	c.open[s] = at
}

func (e entry) less(o entry) bool {
	return cmp.Or(cmp.Compare(e.value.n, o.value.n), cmp.Compare(e.value.rate.PerSecond(), o.value.rate.PerSecond())) < 0
}

// limits puts the numbers together, sorted by scope and pattern.
func (c *converter) limits() []limit.Limit {
	byPattern := map[limit.Pattern]*limit.Limit{}
	for s := range c.entries {
		if byPattern[s.pattern] == nil {
			byPattern[s.pattern] = &limit.Limit{Pattern: s.pattern, Connections: limit.Unlimited, Source: limit.SourceConfig}
		}
	}
	networks := c.networks()
	all := make([]limit.Limit, 0, len(byPattern))
	for p, l := range byPattern {
		at := 0 // the last line about bandwidth
		for _, r := range limit.Resources {
			if e, ok := c.effective(p, r, networks); ok {
				set(l, r, e.value)
				if r == limit.Upload || r == limit.Download {
					at = max(at, e.at)
				}
			}
		}
		c.burst(l, at)
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b limit.Limit) int { return a.Pattern.Compare(b.Pattern) })
	return all
}

// burst lets a bandwidth bring at once what GOST lets through: what a second brings. Without a
// burst it is that here too, but not for a slow one.
func (c *converter) burst(l *limit.Limit, at int) {
	slow := int64(0) // the slowest that is capped
	for _, r := range []limit.Resource{limit.Upload, limit.Download} {
		if n := l.BurstGrains(r); n > int64(l.PerSecond(r)) {
			slow = cmp.Or(min(slow, int64(l.PerSecond(r))), int64(l.PerSecond(r)))
		}
	}
	if slow == 0 {
		return
	}
	least := l.BurstGrains(limit.Upload)
	if l.Bandwidth.Download == slow {
		least = l.BurstGrains(limit.Download)
	}
	if most := max(l.Bandwidth.Upload, l.Bandwidth.Download); most <= least { // else one burst would be far too large
		least = max(most, limit.MinByteBurst)
		l.Bandwidth.Burst = least
	}
	if least > slow {
		c.warnf(at, "GOST lets %s through at once in the slower direction, here it is %s: both directions have one burst", limit.FormatBytes(slow), limit.FormatBytes(least))
	}
}

func set(l *limit.Limit, r limit.Resource, v value) {
	switch r {
	case limit.Connections:
		l.Connections = v.n
	case limit.Requests:
		l.Requests = v.rate
	case limit.Upload:
		l.Bandwidth.Upload = v.n
	case limit.Download:
		l.Bandwidth.Download = v.n
	}
}

// networks are the CIDRs that have lines, the narrowest first.
func (c *converter) networks() []netip.Prefix {
	var all []netip.Prefix
	note := func(s slot) {
		if n, err := netip.ParsePrefix(s.pattern.String()); err == nil && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	for s := range c.entries {
		note(s)
	}
	for s := range c.open {
		note(s)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return cmp.Or(b.Bits()-a.Bits(), a.Addr().Compare(b.Addr())) })
	return all
}

// effective is what counts for a pattern: its own number, or else that of the narrowest network
// around it, or else that of all addresses.
func (c *converter) effective(p limit.Pattern, r limit.Resource, networks []netip.Prefix) (entry, bool) {
	own, ok := c.entries[slot{p, r}]
	if p.Scope() != limit.ScopeClient || p.String() == "*" {
		return own, ok
	}
	network, err := netip.ParsePrefix(p.String())
	isNetwork := err == nil
	if !isNetwork {
		a, _ := netip.ParseAddr(p.String())
		network = netip.PrefixFrom(a, a.BitLen())
	}
	if ok {
		if isNetwork {
			c.warnWider(slot{p, r}, own, network, networks)
		}
		return own, true
	}
	for _, n := range networks {
		if !n.Contains(network.Addr()) || isNetwork && n.Bits() >= network.Bits() {
			continue
		}
		if e, found := c.entries[slot{clients(n), r}]; found {
			return e, true
		}
	}
	all, _ := limit.ScopeClient.ParsePattern("*")
	e, found := c.entries[slot{all, r}]
	return e, found
}

// warnWider warns of a network's number where GOST goes by that of the widest network around it, or
// by its having none.
func (c *converter) warnWider(s slot, own entry, network netip.Prefix, networks []netip.Prefix) {
	for _, n := range slices.Backward(networks) { // the widest first
		if !n.Contains(network.Addr()) || n.Bits() >= network.Bits() {
			continue
		}
		around := slot{clients(n), s.resource}
		if e, found := c.entries[around]; found {
			c.warnf(own.at, "GOST goes by the widest network, %s of line %d, which covers this one; here the narrowest counts", n, e.at)
			return
		}
		if at, found := c.open[around]; found {
			c.warnf(own.at, "GOST goes by the widest network, %s of line %d, which covers this one and has no cap of %s; here the narrowest counts", n, at, s.resource)
			return
		}
	}
}

// clients is the pattern of a network's clients.
func clients(n netip.Prefix) limit.Pattern {
	p, _ := limit.ScopeClient.ParsePattern(n.String()) // it was printed by one
	return p
}
