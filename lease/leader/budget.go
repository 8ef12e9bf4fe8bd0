package leader

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// budget bounds how often units of a rate are moved between nodes that all draw from it. Requests
// come unevenly, and where a node's units are nearly all in use, it lacks one every other moment:
// fetching it each time would cost an entry for every few requests. So moves have a token bucket of
// their own. It lets a few happen at once, for a demand that has changed, and then as many as the
// requests are worth. Only fast rates with many units have one: few units go round, and at a slow
// rate an entry for a request is cheap, while a move that has to wait would cost its tokens.
type budget struct {
	left   float64
	leftAt time.Duration
	begun  bool
}

const (
	movesAtOnce = 8
	// requestsPerMove is one in how many requests may cost an entry.
	requestsPerMove = 400
	// fastRate is from how many requests a second on moves are bounded.
	fastRate = 20
)

// calmDown looks whether there is a move left. Where there is none, a node that has no unit at all,
// and for which requests wait, gets one all the same.
func (p *keyPlan) calmDown() {
	if !p.rate || p.capacity < manyUnits || p.c.key.Resource != limit.Requests {
		return
	}
	rate := p.limit.PerSecond(p.c.key.Resource) / float64(limit.TokenGrains)
	if rate < fastRate {
		return
	}
	b, perSecond := &p.c.budget, rate/requestsPerMove
	if !b.begun {
		b.begun, b.left = true, movesAtOnce
	} else {
		b.left = min(max(b.left, -movesAtOnce)+(p.now-b.leftAt).Seconds()*perSecond, movesAtOnce)
	}
	b.leftAt = p.now
	if b.left >= 1 {
		return
	}
	for _, r := range p.rows {
		if r.present() && r.held == 0 {
			return
		}
	}
	p.calm = true
	if wait := (1 - b.left) / perSecond; wait < longest.Seconds() {
		p.a.wakeAt(p.c, p.now+time.Duration(wait*float64(time.Second)))
	}
}
