package leasetest

import (
	"math"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// handOn checks that levels are handed on: what has gathered in a rate is there at once for
// whichever node asks next. One node takes all units, whatever is in them, and gives them back once
// its bucket is full. Then another one has the whole burst at once.
func (w *world) handOn() {
	if w.breach != "" || w.expiry != lease.ExpiryClose {
		return
	}
	subject, found := w.ratedSubject()
	if !found {
		return
	}
	first := int(w.plan.Seed % uint64(len(w.nodes)))
	if !w.gather(newBurst(w.nodes[first], subject)) {
		return // it can use a part of the rate only, since it waits for another
	}
	b := newBurst(w.nodes[(first+1)%len(w.nodes)], subject)
	b.goOn()
	w.run(w.gathering())
	want := b.want
	b.stop()
	w.out.Watched++
	if b.got < want {
		w.fail(BreachStarved, "node %s has had %d requests at once of a burst of %d, which all lay unused", b.x.name, b.got, want)
	}
}

// gather lets a node take all units of the rates that it asks for, and waits until all are back; it
// reports whether they are, and full.
func (w *world) gather(b *burst) bool {
	b.want = math.MaxInt
	b.goOn()
	for range 20 {
		w.run(100 * ms)
		if b.all() {
			break
		}
	}
	all := b.all()
	b.stop()
	for range 80 + int(w.longestReturn()/(100*ms)) {
		if w.run(100 * ms); w.up.granted() == 0 {
			return all
		}
	}
	return false
}

// ratedSubject is for whom some worker asks whose requests are under a rate.
func (w *world) ratedSubject() (s limit.Subject, found bool) {
	for _, k := range w.plan.Workers {
		s, _ = k.subject()
		if len(tokenKeys(w.up.table, &s)) > 0 {
			return s, true
		}
	}
	return s, false
}

// burst is many requests on one node that want to begin at once.
type burst struct {
	x         *process
	subject   limit.Subject
	keys      []limit.Key
	want, got int
	draw      *lease.Draw // of the next; nil: it has yet to ask
	waiter    *lease.Waiter
}

func newBurst(x *process, s limit.Subject) *burst {
	table := x.w.up.table
	b := &burst{x: x, subject: s, keys: tokenKeys(table, &s), want: math.MaxInt}
	for _, key := range b.keys {
		b.want = min(b.want, int(table.Governing(key).Requests.Burst))
	}
	return b
}

// all reports whether the node has all units.
func (b *burst) all() bool {
	for _, key := range b.keys {
		if use, _ := b.x.node.Use(b.x.clock(), key); use.Granted < limit.Shares/b.unit(key)*b.unit(key) {
			return false
		}
	}
	return true
}

// unit is how many shares make one.
func (b *burst) unit(key limit.Key) int64 {
	return b.x.w.up.table.Governing(key).UnitShares(key.Resource)
}

// stop ends the wait for more.
func (b *burst) stop() {
	if b.waiter != nil {
		b.x.node.Cancel(b.x.clock(), b.waiter)
		b.waiter = nil
	}
	b.forsake()
	b.want = b.got
	b.x.after()
}

// gathering is how long it may take until a node that asks has all units that nobody holds: it asks
// for twice as many each time.
func (w *world) gathering() time.Duration { return 200*ms + 12*(w.commit+w.rtt) }

// The events of a burst.
const (
	evTurn uint8 = iota
	evRefused
)

func (b *burst) act(kind uint8, _ int64) {
	if kind == evRefused {
		b.forsake()
	}
	b.goOn()
}

// goOn takes tokens, up to one that it must wait for.
func (b *burst) goOn() {
	x := b.x
	for b.got < b.want && b.waiter == nil {
		if b.draw == nil && x.node.TryTake(&b.subject, x) {
			b.took()
			continue
		}
		if b.draw == nil {
			b.draw = lease.NewDraw(&b.subject, 0)
		}
		var err error
		if b.waiter, err = x.node.Take(x.Now(), b.draw, b.answer); err != nil {
			b.again()
			break
		}
		if b.waiter == nil && b.draw.Taken() {
			b.draw = nil
			b.took()
		}
	}
	x.after()
}

func (b *burst) took() {
	b.got++
	for _, key := range b.keys {
		b.x.w.up.takes(b.x, &b.x.w.up.keys[b.x.w.up.keyOf(key)], 1)
	}
}

// answer is called by the core, which must not be called back.
func (b *burst) answer(err error) {
	b.waiter = nil
	if err != nil {
		b.again()
		return
	}
	b.x.at(0, false, b, evTurn, 0)
}

// again asks once more after a moment: it was refused.
func (b *burst) again() { b.x.at(5*ms, false, b, evRefused, 0) }

func (b *burst) forsake() {
	if b.draw != nil {
		b.x.node.Forsake(b.x.clock(), b.draw)
		b.draw = nil
	}
}
