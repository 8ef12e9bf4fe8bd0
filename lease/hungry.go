package lease

import (
	"math"
	"time"
)

const (
	// hungryWindow is the time over which waiting flows are averaged, and half of which is forgotten
	// in another.
	hungryWindow = time.Second
	// oneFlow is what one flow that waits all the time counts.
	oneFlow = 100
)

// hungryFlows counts the flows that would move more than they get, as how many wait for a piece at a
// time: a flow that gets all that it wants never waits. A node's share of a bandwidth goes by it.
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
		h.mean = (h.mean + float64(h.area)/float64(hungryWindow)) / 2
		h.since, h.at, h.area = end, end, 0
	}
	h.area += (now - h.at) * time.Duration(n)
	h.at = now
}

// hungry is how many flows have waited lately, in parts of oneFlow. Needs the pool's lock.
func (p *pool) hungry(now time.Duration) int64 {
	h := &p.flowing
	h.pass(now, p.flows.n)
	mean := h.mean
	if mean == 0 { // they have just begun
		mean = float64(p.flows.n)
	}
	return int64(math.Round(oneFlow * mean))
}
