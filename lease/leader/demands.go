package leader

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// demandBook is what nodes have or want of each key.
type demandBook struct {
	keys     map[limit.Key]*contest
	contests []*contest // the same, in an order that depends on what came in alone
	// targets numbers all targets: a node that acknowledges one of a key which the leader has
	// forgotten since must not seem to know the first of the next.
	targets uint64
}

// contest is what is known of a key that somebody wants or holds.
type contest struct {
	key            limit.Key
	index          int       // among the contests
	demands        []*demand // by session id
	dirty          bool
	wake           time.Duration // to be planned again at this time; 0: only when something happens
	wakeIndex      int           // among the wakes
	passed         uint64        // the table up to which the key has passed the gate
	gatedSince     time.Duration // has waited at it since; 0: does not
	gatedFor       uint64        // the table that it waits for
	gatedAnew      time.Duration // has waited for that one since
	contendedUntil time.Duration
	planned        time.Duration // when it was planned last
	tight          bool          // more was wanted then than there was
	regrets                      // of a rate
}

// demand is one session's interest in a key.
type demand struct {
	peer *peer
	c    *contest

	// As the node reported it last; until it has, nothing is known of it but its grant.
	reported bool
	wish

	releasing  int64 // out of use at the node, to go into the next entry
	level      int64 // of a rate: the grains that go with it
	fetched    int64 // how much of it was asked for
	ask        uint64
	askSince   time.Duration
	seq, acked uint64
	fetch      uint64 // the last target that asked for some of what it holds
	sent       target
	shortSince time.Duration // has had less than it asks for since; 0: has enough
	owed       time.Duration // slot-time that it had less (or, below 0, more) than its fair share of, while slots were short
	idleSince  time.Duration // has held a slot without a use since
	quietSince time.Duration // has used nothing, and nothing has waited, since
	most       int64         // that it has used since it was quiet before
	extraSince time.Duration // has held more than its share since; 0: does not
	grantedAt  time.Duration // was granted a slot last
	tokenAt    time.Duration // of a rate of requests: the node's units have a token then; 0: unknown
}

// wish is what a node says of a key: in slots or, of a rate, in shares, as on the stream; in a
// plan, in units.
type wish struct{ held, inUse, parked, waiting, refused, headroom, flows int64 }

// in converts a wish to units of so many slots or shares. What is held beyond whole units is of no
// use to the node, and what it asks for can't be less than a unit.
func (w wish) in(unit int64) wish {
	if unit == 1 {
		return w
	}
	up := func(n int64) int64 { return (n + unit - 1) / unit }
	return wish{w.held / unit, up(w.inUse), up(w.parked), up(w.waiting), up(w.refused), up(w.headroom), w.flows}
}

// idle is what the node holds without a use of its own.
func (w wish) idle() int64 { return max(0, w.held-w.inUse-w.waiting) }

// target is what a node was last told, in slots or shares.
type target struct {
	slots     int64
	contended bool
	evict     bool
}

// maxReported is the most that a node is believed to have, or to want, of one key: far above what
// it can, and far below what could make a sum overflow.
const maxReported = 1 << 30

// reported bounds what a node says of itself. The log decides in any case; this is for the others'
// shares.
func reported(n int64) int64 { return max(0, min(n, maxReported)) }

// maxLevel bounds the grains of a release: far above what any bucket holds, and far below what
// could make a sum overflow.
const maxLevel = 1 << 60

// maxTokenIn is the longest that a node is believed to wait for a token: as long as the slowest rate
// takes, and far below what could make a sum overflow.
const maxTokenIn = int64(1000 * 24 * time.Hour)

// release takes slots or shares that are out of use at the node, and the level that goes with them.
func (d *demand) release(n, level int64) {
	d.releasing = reported(d.releasing + reported(n))
	if d.fetch > 0 && d.acked <= d.fetch { // until now the node knew of no later target
		d.fetched = d.releasing
	}
	if d.c.key.Resource.IsRate() { // a connection has none, and the log would need a newer version for it
		d.level = min(d.level+max(0, min(level, maxLevel)), maxLevel)
	}
}

// update takes a node's releases and demands.
func (a *Allocator) update(now time.Duration, conn uint64, u *leasepb.Update) {
	p := a.conns[conn]
	if p == nil || p.closing || p.hello != nil {
		return
	}
	if !leasepb.Readable(u.Releases, u.Demands) {
		a.misread(conn, p.Node)
		return
	}
	if !p.proven {
		a.prove(p)
	}
	for _, r := range u.Releases {
		if key, err := fsmpb.ParseKey(r.Key); err == nil && r.Slots > 0 { // none is unknown
			d := a.demandOf(p, key)
			d.release(r.Slots, r.Level)
			a.mark(d.c)
		}
	}
	for _, m := range u.Demands {
		key, err := fsmpb.ParseKey(m.Key)
		if err != nil {
			panic("an update was let in with a key that can't be read: " + err.Error())
		}
		d := a.demandOf(p, key)
		d.reported = true
		d.wish = wish{
			held: reported(m.Held), inUse: reported(m.InUse), parked: reported(m.Parked),
			waiting: reported(m.Waiting), refused: reported(m.Refused), headroom: reported(m.Headroom),
			flows: reported(m.Flows),
		}
		d.acked = m.TargetSeq
		if d.tokenAt = 0; m.TokenInNs > 0 {
			d.tokenAt = now + time.Duration(min(m.TokenInNs, maxTokenIn))
		}
		switch {
		case d.held <= d.inUse+d.waiting:
			d.idleSince = 0
		case d.idleSince == 0:
			d.idleSince = now
		}
		switch {
		case d.inUse+d.waiting > 0:
			if d.quietSince != 0 {
				d.most = 0
			}
			d.quietSince, d.most = 0, max(d.most, d.inUse)
		case d.quietSince == 0:
			d.quietSince = now
		}
		switch {
		case m.Ask > d.ask:
			d.ask, d.askSince = m.Ask, now
		case m.Ask == 0:
			d.ask = 0 // nobody waits for it any more
		}
		a.mark(d.c)
	}
	if u.LimitsIndex > p.limits {
		p.limits = u.LimitsIndex
		for _, c := range a.waking {
			a.mark(c) // it may have waited for this
		}
	}
}

// contest finds or makes a key's.
func (a *Allocator) contest(key limit.Key) *contest {
	c := a.keys[key]
	if c == nil {
		c = &contest{key: key, index: len(a.contests)}
		a.keys[key] = c
		a.contests = append(a.contests, c)
	}
	return c
}

func (a *Allocator) forget(c *contest) {
	delete(a.keys, c.key)
	last := len(a.contests) - 1
	a.contests[c.index] = a.contests[last]
	a.contests[c.index].index = c.index
	a.contests[last] = nil
	a.contests = a.contests[:last]
}

func (a *Allocator) demandOf(p *peer, key limit.Key) *demand {
	if d := p.demands[key]; d != nil {
		return d
	}
	c := a.contest(key)
	d := &demand{peer: p, c: c, sent: target{slots: leasepb.NoTarget}}
	p.demands[key] = d
	at, _ := slices.BinarySearchFunc(c.demands, p.ID, func(d *demand, id uint64) int { return cmpID(d.peer.ID, id) })
	c.demands = slices.Insert(c.demands, at, d)
	return d
}

func (a *Allocator) drop(d *demand) {
	delete(d.peer.demands, d.c.key)
	d.c.demands = slices.DeleteFunc(d.c.demands, func(x *demand) bool { return x == d })
}

// tidy forgets demands that say nothing.
func (a *Allocator) tidy(c *contest) {
	for i := len(c.demands) - 1; i >= 0; i-- {
		d := c.demands[i]
		if d.held+d.inUse+d.parked+d.waiting+d.refused == 0 && d.ask == 0 && d.sent == (target{slots: leasepb.NoTarget}) && d.shortSince == 0 {
			a.drop(d)
		}
	}
	if len(c.demands) > 0 || c.dirty {
		return
	}
	if c.wake != 0 { // nobody is left for whom it would be planned again
		a.waking.Remove(c)
		c.wake = 0
	}
	a.forget(c)
}

func sortedDemands(m map[limit.Key]*demand) []*demand {
	out := make([]*demand, 0, len(m))
	for _, d := range m {
		out = append(out, d)
	}
	slices.SortFunc(out, func(x, y *demand) int { return x.c.key.Compare(y.c.key) })
	return out
}

// setTarget tells a node what changes for it.
func (a *Allocator) setTarget(d *demand, t target) {
	if d.sent == t || d.peer.conn == 0 {
		return
	}
	d.sent = t
	a.targets++
	d.seq = a.targets
	if t.slots >= 0 {
		d.fetch = d.seq
	}
	as := d.peer.assigning()
	as.Targets = append(as.Targets, &leasepb.Target{
		Key: fsmpb.KeyOf(d.c.key), Seq: d.seq, Slots: t.slots, Contended: t.contended, Evict: t.evict})
}
