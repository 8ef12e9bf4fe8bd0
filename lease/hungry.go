package lease

import "time"

// hungryWindow is for how long a flow that had to wait counts as hungry at least.
const hungryWindow = 500 * time.Millisecond

// hungryFlows counts the flows that lately had to wait for a piece, and so would move more than they
// get. They are what a node's share of a bandwidth is divided by.
type hungryFlows struct {
	since  time.Duration // the present window's beginning
	window uint32
	n      int32 // in it
	past   int32 // in the one before
}

// roll ends the windows that are over.
func (h *hungryFlows) roll(now time.Duration) {
	switch over := (now - h.since) / hungryWindow; {
	case over >= 2:
		*h = hungryFlows{since: now, window: h.window + 1}
	case over == 1:
		*h = hungryFlows{since: h.since + hungryWindow, window: h.window + 1, past: h.n}
	}
}

// note counts a flow once in each window; in is the window in which it was counted last.
func (h *hungryFlows) note(now time.Duration, in *uint32) {
	h.roll(now)
	if *in != h.window+1 {
		*in = h.window + 1 // 0 is none
		h.n++
	}
}

// hungry is how many flows would move more than they get: those of lately, or, where pieces come so
// seldom that most of them wait for longer than a window, those that wait. Needs the pool's lock.
func (p *pool) hungry(now time.Duration) int64 {
	p.flowing.roll(now)
	return int64(max(p.flowing.n, p.flowing.past, p.flows.n))
}
