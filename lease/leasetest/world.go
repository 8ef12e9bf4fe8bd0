package leasetest

import (
	"fmt"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

const (
	leaseMargin = leasepb.Margin
	// rest is how long slots rest that a take-over freed, as the protocol says.
	rest = 250 * time.Millisecond
	// tickEvery is the longest between a process's looks at its clock.
	tickEvery = 250 * time.Millisecond
	// pageGap is the time between two pages of a node's walk: something may happen in it.
	pageGap = 100 * time.Microsecond
	// wakeLate is how much later than what lies ready the timers of a stopped process fire when it
	// goes on.
	wakeLate = 10 * time.Millisecond
	// seatOf is the distance of two nodes' clocks: nothing may compare them.
	seatOf = time.Hour
)

// world is one run: a clock, what is to happen, the processes, the log and the upstream.
type world struct {
	plan *Plan
	rule Rule // broken; 0: none
	dice dice
	now  time.Duration
	q    queue

	nodes           []*process // by their place
	twins           []*process // others that use a node's name
	seat            uint64     // of the last stream
	raft            raft
	up              upstream
	links           links
	rtt             time.Duration
	commit          time.Duration
	scoped          bool                // more than hosts is limited, or more than connections
	levels          map[limit.Key]int64 // that went out last, where that rule is broken
	sound           *fsm.State          // which was checked last
	soundAt         uint64              // its index then
	page            int                 // pools that a node visits, and states, in one go
	wild            time.Duration       // until then the leader is buggy
	hushed          time.Duration       // until then nobody asks for anything
	loss            *process            // is to lose a grant with the next entry
	dead            map[string]bool
	left            []leader.Farewell
	expiry          lease.Expiry
	struck          map[int]int   // by the fault's place: who led when it struck
	foreign, second *leadership   // of other clusters; nil: nobody has come to one
	healed          bool          // nothing goes wrong any more
	calm            bool          // nor has for long: all that changes is the limits
	final           bool          // and the cluster must be whole again
	flowEnded       time.Duration // when a flow ended last

	breach string
	trace  *trace
	every  int
	hash   uint64
	out    Outcome
}

// Outcome is what a run came to.
type Outcome struct {
	Breach      string        // the first; "": none
	Kind        Breach        // which invariant it is of
	At          time.Duration // when it came, or how long the run was
	Steps       int
	Entries     int
	Connections int
	Tokens      int // of rates that were judged
	Bytes       int // the same, of bandwidth
	Watched     int // how often it was looked whether a rate is used
	Faults      [kinds]int
	NodeTime    time.Duration // the sum of the nodes' times
	Hash        uint64        // of everything that happened: the same plan gives the same
	Trace       string        // where it was asked for
}

// Run runs a plan with a rule broken (0: none).
func Run(p *Plan, broken Rule) Outcome { return run(p, broken, nil) }

// RunTraced is Run with a readable account of it: the faults, and the last lines before its end.
func RunTraced(p *Plan, broken Rule, lines int) Outcome {
	t := &trace{kept: lines}
	out := run(p, broken, t)
	out.Trace = t.String()
	return out
}

func run(p *Plan, broken Rule, t *trace) Outcome {
	if err := p.Validate(); err != nil {
		return Outcome{Kind: BreachPlan, Breach: "the plan can't be run: " + err.Error()}
	}
	w := newWorld(p, broken, t)
	for i := range p.Faults {
		w.at(p.Faults[i].At.D(), w, evFault, int64(i))
	}
	w.run(p.Length.D())
	w.recover()
	w.reshape()
	w.settle()
	w.rest()
	w.handOn()
	w.out.Breach, w.out.At, w.out.Hash = w.breach, w.now, w.hash
	w.out.NodeTime = w.now * time.Duration(p.Nodes)
	return w.out
}

// newWorld makes a world with all its nodes booting.
func newWorld(p *Plan, broken Rule, t *trace) *world {
	w := &world{
		plan: p, rule: broken, dice: newDice(p.Seed, 2), trace: t, every: p.Every,
		rtt: p.RTT.D(), commit: p.Commit.D(), dead: map[string]bool{}, levels: map[limit.Key]int64{}, struck: map[int]int{}, hash: 14695981039346656037,
	}
	w.page = 1 + int(p.Seed%3)
	w.expiry, _ = p.expiry()
	w.scoped = p.scoped()
	w.up.w = w
	w.raft.w = w
	for i := range p.Nodes {
		x := &process{w: w, index: i, name: string(rune('a' + i)), dice: newDice(p.Seed, 3, uint64(i))}
		if i < len(p.Drift) {
			x.ppm = p.Drift[i]
		}
		if broken == RuleFullSpeed { // the judge takes its clock for right
			x.ppm += coveredDrift
		}
		w.nodes = append(w.nodes, x)
		if i < p.Servers {
			x.state = fsm.NewState()
		}
	}
	w.raft.begin()
	for _, x := range w.nodes {
		x.boot()
	}
	return w
}

func (p *Plan) expiry() (lease.Expiry, error) {
	for _, e := range []lease.Expiry{lease.ExpiryClose, lease.ExpiryDrain, lease.ExpiryKeep} {
		if e.String() == p.Expiry {
			return e, nil
		}
	}
	return 0, fmt.Errorf("on_expiry is %q: want close, drain or keep", p.Expiry)
}

// at plans an event outside the processes.
func (w *world) at(d time.Duration, who actor, kind uint8, n int64) {
	w.q.push(w.now+d, event{who: who, kind: kind, n: n})
}

// run lets the world's time pass, up to the first breach.
func (w *world) run(d time.Duration) {
	end := w.now + d
	for len(w.q.heap) > 0 && w.q.heap[0].at <= end && w.breach == "" {
		at, e := w.q.pop()
		w.now = at
		if x := e.proc; x != nil {
			if x.life != e.life {
				continue
			}
			if x.pausedUntil > w.now {
				x.postpone(e)
				continue
			}
		}
		w.hash = (w.hash ^ uint64(at)<<8 ^ uint64(e.kind) ^ uint64(e.n)<<20) * 1099511628211
		w.out.Steps++
		e.who.act(e.kind, e.n)
		if w.out.Steps%w.every == 0 {
			w.checkAll()
		}
	}
	if w.breach == "" {
		w.now = end
	}
}

// checkAll walks everything.
func (w *world) checkAll() {
	if st := w.raft.head.state; st != w.sound || st.Index() != w.soundAt {
		if err := st.Check(); err != nil {
			w.fail(BreachState, "the replicated state breaks an invariant: %v", err)
		}
		w.sound, w.soundAt = st, st.Index()
	}
	for _, x := range w.everybody() {
		if !x.running {
			continue
		}
		if err := x.node.Check(); err != nil {
			w.fail(BreachNode, "%v", err)
		}
		w.up.agrees(x)
	}
	for _, l := range w.raft.leaderships {
		if err := l.alloc.Check(); err != nil {
			w.fail(BreachLeader, "the leader of term %d: %v", l.term, err)
		}
		for _, s := range l.alloc.Sessions(l.p.mono()) {
			if s.ReclaimedIn < 0 {
				w.fail(BreachLeader, "session %d of %s is to be reclaimed in %v", s.ID, s.Node, s.ReclaimedIn)
			}
		}
	}
}

// everybody is all processes.
func (w *world) everybody() []*process {
	if len(w.twins) == 0 {
		return w.nodes
	}
	return append(w.nodes[:len(w.nodes):len(w.nodes)], w.twins...)
}

// fail notes the first breach, which ends the run.
func (w *world) fail(kind Breach, format string, args ...any) {
	if w.breach == "" {
		w.out.Kind = kind
		w.breach = fmt.Sprintf("t=%v: ", w.now) + fmt.Sprintf(format, args...)
		w.trace.note(w.now, "world", "BREACH: "+w.breach)
	}
}

// jitter is a message's time on its way: around half a round trip.
func (w *world) jitter(d *dice) time.Duration { return w.rtt/4 + d.upTo(w.rtt/2) }

// links are who can't send to whom: counts, since cuts overlap.
type links struct {
	stream, raft [maxNodes + 1][maxNodes + 1]int8 // the last is another cluster
}

func (w *world) canStream(from, to *process) bool {
	return from.index == to.index && from == to || w.links.stream[from.index][to.index] == 0
}

// cut adds (by = 1) or removes (-1) one.
func (w *world) cut(f Fault, node int, by int8) {
	set := f.Set
	if set == 0 {
		set = 1 << node
	}
	for i := range w.nodes {
		for j := range w.nodes {
			out, in := set>>i&1 == 1 && set>>j&1 == 0, set>>i&1 == 0 && set>>j&1 == 1
			if !(out && f.N != 2 || in && f.N != 1) {
				continue
			}
			if f.Kind != FaultRaftCut {
				w.links.stream[i][j] += by
			}
			if f.Kind != FaultStreamCut {
				w.links.raft[i][j] += by
			}
		}
	}
	w.raft.evaluate()
}
