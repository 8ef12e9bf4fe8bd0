package lease

import (
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
)

const (
	// askTimeout bounds the wait for the leader's answer whether anything is free. It is long
	// enough for the election of another leader, and for a busy machine: no request is refused with
	// "limit reached" unless it is.
	askTimeout = 3 * time.Second
	// askEvery is the pause between asks for a key that has just been denied. Requests that come
	// meanwhile share the next ask, and take a slot that comes free before it. So a storm of
	// requests costs the leader a few answers.
	askEvery = 5 * time.Millisecond
	// maxAsking bounds the requests that wait for the leader's answer about one key. More are
	// refused at once, as without an answer: a leader that is silent for askTimeout must not let
	// them fill the memory.
	maxAsking = 4096
)

// askFor numbers the waiters that are to be refused if nothing is free anywhere, one ask at a time.
// Needs the pool's lock.
func (n *Node) askFor(now time.Duration, p *pool) uint64 {
	if p.asking {
		return p.ask
	}
	for w := p.waiters.head; w != nil; w = w.next {
		if w.queued || w.ask != 0 {
			continue
		}
		if due := p.askedAt + askEvery; !p.asking && p.denied && now < due {
			n.askLater(p, due)
			return 0
		}
		if !p.asking {
			p.asking, p.askedAt = true, now
			p.ask++
		}
		w.ask = p.ask
	}
	if p.asking {
		return p.ask
	}
	return 0
}

// askLater puts an ask off until due.
func (n *Node) askLater(p *pool, due time.Duration) {
	if p.putOff {
		return
	}
	p.putOff = true
	if len(n.later) == 0 || due < n.nextAsk {
		n.nextAsk = due
	}
	n.later = append(n.later, p)
}

// askNow lets the asks be sent that are due.
func (n *Node) askNow(now time.Duration) {
	keep := n.later[:0]
	n.nextAsk = now + askEvery
	for _, p := range n.later {
		if due := p.askedAt + askEvery; due > now {
			n.nextAsk = min(n.nextAsk, due)
			keep = append(keep, p)
			continue
		}
		p.putOff = false
		n.mark(p)
	}
	n.later = keep
}

// answered refuses those who waited for an ask and got nothing, unless the limit's queue has a place
// for them.
func (n *Node) answered(now time.Duration, p *pool, answer *leasepb.Answer) {
	n.lock(p)
	defer p.mu.Unlock()
	ask := answer.Ask
	if !p.asking || ask != p.ask {
		return
	}
	if p.key.Resource.IsRate() {
		if p.otherAt = 0; answer.TokenInNs > 0 {
			p.otherAt = now + time.Duration(answer.TokenInNs)
		}
	}
	p.asking, p.denied = false, false
	closing := p.taken // about to be free, for as many of those who wait
	var next *Waiter
	for w := p.waiters.head; w != nil; w = next {
		next = w.next
		if closing > 0 {
			closing--
			w.ask, p.denied = 0, true // it asks again, in a while
			continue
		}
		asked := w.ask != 0 && w.ask <= ask
		switch {
		case w.queued, asked && w.over && n.hasPlace(p):
			p.waiters.tell(w)
		case asked:
			p.denied = true
			why, ghost := ErrOverLimit, w.ghost
			if w.over && p.limit.Queue.Enabled() {
				why = ErrQueueFull
			}
			n.answer(p, w, p.refusal(now, why))
			switch {
			case !ghost:
				n.noteRefused(now, p)
			case p.key.Resource.IsRate(): // likewise: units must not come and go with each of them
				n.noteWanted(now, p)
			}
		}
	}
	n.settle(now, p)
	if p.waiters.len() > 0 {
		n.mark(p)
	}
}
