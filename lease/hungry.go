package lease

import (
	"math"
	"time"
)

const (
	// hungryWindow is the time over which waiting flows are averaged, and half of which is
	// forgotten in another.
	hungryWindow = time.Second
	// hungryGap is how soon a flow that was woken for a piece waits again if it has waited for no
	// other: then it has been hungry in between too.
	hungryGap = 250 * time.Millisecond
	// fewerOrMore is by how much the mean must be away from the whole number that the leader was
	// told before it is told another.
	fewerOrMore = 0.6
)

// hungryFlows counts the flows that would move more than they get, as how many wait for a piece at
// a time: a flow that gets all that it wants never waits. A node's share of a bandwidth goes by it.
type hungryFlows struct {
	since time.Duration // the present window's beginning
	at    time.Duration // counted up to
	area  time.Duration // flows times time, in the present window
	mean  float64       // of the windows before; 0: there was none
}

// pass counts that n flows have waited since the last call.
func (h *hungryFlows) pass(now time.Duration, n int32) {
	if now-h.since > 4*hungryWindow {
		*h = hungryFlows{since: now, at: now, mean: float64(n)}
		return
	}
	for end := h.since + hungryWindow; now >= end; end += hungryWindow {
		h.area += (end - h.at) * time.Duration(n)
		mean := float64(h.area) / float64(hungryWindow)
		if h.mean > 0 {
			mean = (h.mean + mean) / 2
		}
		h.mean = mean
		h.since, h.at, h.area = end, end, 0
	}
	h.area += (now - h.at) * time.Duration(n)
	h.at = now
}

// hungry is how many flows have waited at a time lately. Needs the pool's lock.
func (p *pool) hungry(now time.Duration) float64 {
	h := &p.flowing
	h.pass(now, p.flows.n)
	if h.mean == 0 { // they have just begun
		return float64(p.flows.n)
	}
	return h.mean
}

// hungrier reports whether the leader should hear of another number of flows. Needs the pool's
// lock.
func (p *pool) hungrier(now time.Duration) bool {
	return math.Abs(p.hungry(now)-float64(p.saidFlows)) > max(fewerOrMore, float64(p.saidFlows)/16)
}
