package leasetest

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Flow is a connection that stays open: each of its directions moves bytes for a while, is idle for
// a while, and so on.
type Flow struct {
	Node   int      `json:"node"`
	Host   string   `json:"host"`
	Client string   `json:"client,omitempty"`
	User   string   `json:"user,omitempty"`
	Ways   string   `json:"ways,omitempty"` // its directions: up, or both; empty: down
	Most   int      `json:"most"`           // bytes that it moves at once
	Busy   Duration `json:"busy"`           // it moves bytes for about so long
	Idle   Duration `json:"idle,omitempty"` // and none for so long; 0: it is always busy
}

// subject is what a flow's bytes are counted for.
func (f Flow) subject() (limit.Subject, error) { return subjectOf(f.Host, f.Client, f.User) }

// ways are the directions of a flow; nil: the plan names none that there is.
func (f Flow) ways() []limit.Resource {
	switch f.Ways {
	case "":
		return []limit.Resource{limit.Download}
	case "up":
		return []limit.Resource{limit.Upload}
	case "both":
		return []limit.Resource{limit.Download, limit.Upload}
	}
	return nil
}

// flow is one direction of a flow of a process, with its meter. It takes bytes as the proxy does:
// before they are read, and gives back what was not there.
type flow struct {
	Flow
	w       *world
	x       *process
	dice    dice
	subject limit.Subject
	way     limit.Resource
	other   *flow // the connection's other direction; nil: no bytes go there
	meter   *lease.Meter
	gone    bool
	phase   int64         // counts the busy and the idle ones
	busy    bool          // there is always more to move
	asleep  bool          // it is idle, and waits for nothing
	since   time.Duration // of the phase
	last    time.Duration // when it moved bytes last
	total   int64         // bytes that it has moved

	table *limit.Table // by which keys were found
	keys  []int        // what counts its bytes, in the upstream's list
	own   rateInfo     // of the connection alone

	// Where rules are broken.
	turn   bool               // it was woken
	met    map[limit.Key]bool // its node knew them
	behind int64              // bytes that it has yet to move
}

// The events of a flow.
const (
	evPhase  uint8 = iota // n: the phase that ends
	evMove                // its meter has woken it, or it has moved what it had
	evPut                 // n: bytes that were not there to be moved
	evBehind              // it moves what it took before, where that rule is broken
	evClose
	evOpen // another connection begins
)

func (f *flow) act(kind uint8, n int64) {
	if kind == evOpen && !f.x.idle {
		f.x.startFlow(f.Flow, f.dice)
	}
	if f.gone {
		return
	}
	switch kind {
	case evPhase:
		f.nextPhase(n)
	case evMove:
		f.move()
	case evPut:
		if n > 0 {
			f.meter.PutBack(f.x.Now(), int(n))
		}
		f.move()
	case evBehind:
		f.moved(f.behind)
		f.move()
	case evClose:
		f.close()
		f.x.after()
	}
}

// Wake implements [lease.Waker]. A goroutine may be late.
func (f *flow) Wake() {
	f.turn = true
	late := 200 * time.Microsecond
	if f.dice.one(16) {
		late = 50 * ms
	}
	f.x.at(f.dice.upTo(f.lateness(late)), false, f, evMove, 0)
}

func (x *process) startFlows() {
	x.flows = x.flows[:0]
	if x.twin {
		return
	}
	for i, plan := range x.w.plan.Flows {
		if plan.Node == x.index {
			x.startFlow(plan, newDice(x.w.plan.Seed, 13, uint64(i), uint64(x.life)))
		}
	}
}

func (x *process) startFlow(plan Flow, d dice) {
	var other *flow
	for _, way := range plan.ways() {
		f := &flow{Flow: plan, w: x.w, x: x, dice: d, way: way, other: other, asleep: true, since: x.w.now, last: x.w.now}
		if other != nil {
			f.dice = newDice(x.w.plan.Seed, 14, d.next())
			other.other = f
		}
		f.subject, _ = plan.subject()
		f.meter = lease.NewMeter(&f.subject, way, f)
		x.flows = append(x.flows, f)
		x.at(f.dice.upTo(plan.Idle.D()/2+20*ms), false, f, evPhase, 0)
		other = f
	}
}

// endFlows ends all flows at once, or each within a while.
func (x *process) endFlows(within time.Duration) {
	for _, f := range slices.Clone(x.flows) {
		if within == 0 {
			f.close()
		} else {
			x.at(f.dice.upTo(within), false, f, evClose, 0)
		}
	}
}

// close ends the connection: the meters of its directions give up their waits.
func (f *flow) close() {
	for _, d := range []*flow{f, f.other} {
		if d != nil && !d.gone {
			d.gone = true
			d.x.node.Unpace(d.x.clock(), d.meter)
		}
	}
	f.w.flowEnded = f.w.now
	f.x.flows = slices.DeleteFunc(f.x.flows, func(o *flow) bool { return o.gone })
}

// nextPhase ends a phase. A connection may end with one, and another begins.
func (f *flow) nextPhase(phase int64) {
	if f.phase != phase {
		return
	}
	f.phase++
	f.since = f.w.now
	switch {
	case !f.busy && f.w.silent(f.x, &f.dice, f, evPhase, f.phase):
	case !f.busy:
		f.busy = true
		f.x.at(f.around(f.Busy), false, f, evPhase, f.phase)
		if f.asleep {
			f.move()
		}
	case f.dice.one(4):
		f.close()
		f.x.after()
		if !f.x.idle {
			f.x.at(f.around(f.Idle), false, f, evOpen, 0)
		}
	case f.Idle > 0:
		f.busy = false
		f.x.at(f.around(f.Idle), false, f, evPhase, f.phase)
	default:
		f.x.at(f.around(f.Busy), false, f, evPhase, f.phase)
	}
}

func (f *flow) around(d Duration) time.Duration { return f.dice.between(d.D()/2, d.D()*3/2) }

// move moves the next bytes, or waits for them.
func (f *flow) move() {
	f.asleep = false
	turn := f.turn
	f.turn = false
	got := f.take()
	switch {
	case got == 0:
		f.fenced(turn)
		return
	case !f.busy: // its bytes have ended while it waited
		f.meter.PutBack(f.x.Now(), got)
		f.asleep = true
		return
	}
	k := got
	if f.dice.one(4) {
		k = f.dice.below(got + 1)
	}
	rest := got - k
	if f.spoil(&k, &rest) {
		return
	}
	f.moved(int64(k))
	f.x.at(50*time.Microsecond+f.dice.upTo(ms), false, f, evPut, int64(rest))
}

// take asks the meter, as [lease.Meter.Take] does.
func (f *flow) take() int {
	x := f.x
	f.renew()
	f.counted() // the meter looks at the limits now
	f.forgot()
	got, heard := x.node.TryPiece(f.meter, f.Most, x)
	switch {
	case got == 0:
		got = x.node.Piece(x.Now(), f.meter, f.Most)
		x.after()
	case heard:
		x.node.Pieced(x.Now(), f.meter)
		x.after()
	}
	return got
}

// moved lets the upstream count bytes.
func (f *flow) moved(n int64) {
	if n <= 0 {
		return
	}
	f.last = f.w.now
	f.total += n
	f.movedOwn(float64(n))
	f.movedShared(n)
}

// movedShared lets the upstream count bytes by the limits that the flow shares with others.
func (f *flow) movedShared(n int64) {
	u := &f.w.up
	for _, i := range f.counted() {
		k := &u.keys[i]
		if u.takes(f.x, k, float64(n)+f.x.tookBesides(k.key)) {
			f.w.out.Bytes += int(n)
		}
	}
}

// counted is what counts the flow's bytes beside those of others, by the limits that its node
// enforces.
func (f *flow) counted() []int {
	table := f.x.node.Table()
	if table == f.table {
		return f.keys
	}
	f.table, f.keys = table, f.keys[:0]
	f.governOwn(table)
	for _, scope := range claimedScopes {
		if l, name := table.Find(scope, &f.subject); l.Caps(f.way) && !l.Report {
			f.keys = append(f.keys, f.w.up.keyOf(limit.Key{Scope: scope, Resource: f.way, Name: name}))
		}
	}
	return f.keys
}
