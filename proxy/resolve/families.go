package resolve

import (
	"net/netip"
	"time"
)

const (
	// resolutionDelay is how long the first family's addresses wait for the other's (RFC 8305,
	// section 3).
	resolutionDelay = 50 * time.Millisecond
	// noNameDelay is how long a family may still take after the other's answer was that the name
	// does not exist, which is true of both (RFC 8020), except from servers that are wrong about
	// IPv6.
	noNameDelay = 500 * time.Millisecond
	// errorTTL is how long a failure is remembered.
	errorTTL = time.Second
	// sharedTTL is how long an answer with a TTL of 0 is remembered where several connections
	// waited for it.
	sharedTTL = time.Second
	// maxNegativeTTL bounds the TTL of a name, or of an address, that does not exist. Raising it
	// makes a new name usable later.
	maxNegativeTTL = 5 * time.Second
)

// family is IPv4 or IPv6.
type family int

const (
	four family = iota
	six
	families
)

// other is the other family.
func (f family) other() family { return 1 - f }

// gathering collects what has been answered for both families of a name and decides when that is
// enough. It is pure: time is an argument.
type gathering struct {
	results [families]*result
	since   time.Time // the first result
	// eager families are not waited for once the other has addresses: they were withheld before, or
	// are of no use here.
	eager [families]bool
}

// add takes a family's result.
func (g *gathering) add(f family, r result, now time.Time) {
	if g.results[f.other()] == nil {
		g.since = now
	}
	g.results[f] = &r
}

// enough reports whether there is nothing more to wait for. Otherwise until is when there will be,
// whatever comes; it is zero where only a result can end the wait.
func (g *gathering) enough(now time.Time) (done bool, until time.Time) {
	a, b := g.results[four], g.results[six]
	if a != nil && b != nil {
		return true, time.Time{}
	}
	have, missing := a, six
	if have == nil {
		have, missing = b, four
	}
	switch {
	case have == nil:
		return false, time.Time{}
	case have.kind == kindAddrs && g.eager[missing]:
		return true, time.Time{}
	case have.kind == kindAddrs:
		until = g.since.Add(resolutionDelay)
	case have.kind == kindNoName:
		until = g.since.Add(noNameDelay)
	default:
		return false, time.Time{}
	}
	return !now.Before(until), until
}

// missing reports whether a family has not been answered yet.
func (g *gathering) missing(f family) bool { return g.results[f] == nil }

// outcome is both families together.
type outcome struct {
	kind  kind
	addrs []netip.Addr
	ttl   time.Duration
}

// outcome sums up the results so far. Where one family has addresses, the other's absence does not
// count, nor does its short TTL: a name without IPv6 is not asked for every few seconds. Where none
// has addresses, a failure outweighs an absence: the failed family may have addresses.
func (g *gathering) outcome(shared bool) outcome {
	o := outcome{ttl: 1<<63 - 1}
	for _, f := range [...]family{six, four} {
		if r := g.results[f]; r != nil && r.kind == kindAddrs {
			o.kind = kindAddrs
			o.addrs = append(o.addrs, r.addrs...)
			o.ttl = min(o.ttl, r.ttl)
		}
	}
	if o.kind != kindAddrs {
		o.kind, o.ttl = g.absence()
	}
	if o.ttl == 0 && shared {
		o.ttl = sharedTTL
	}
	return o
}

// absence is the outcome where no family has addresses.
func (g *gathering) absence() (kind, time.Duration) {
	worst, ttl := kindNoData, maxNegativeTTL
	for _, r := range g.results {
		switch {
		case r == nil:
			worst = kindSilent
		case r.kind == kindNoName:
			return kindNoName, min(r.ttl, maxNegativeTTL)
		case r.kind == kindNoData:
			ttl = min(ttl, r.ttl)
		default:
			worst = min(worst, r.kind)
		}
	}
	if worst != kindNoData {
		return worst, errorTTL
	}
	return worst, ttl
}
