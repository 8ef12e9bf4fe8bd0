package leasetest

import (
	"bytes"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// raft is the log as the servers agree on it, and who leads. It promises what Raft does, and no
// more: an entry that is committed stays; one leader at a time commits and can be verified; who was
// deposed need not know; its last entry may be committed by its successor. Elections take a while,
// in which nobody leads.
type raft struct {
	w           *world
	term        uint64
	log         []logEntry
	putBacks    int           // of the only server's log, to an older copy
	lead        *leadership   // whom the log listens to; nil during an election
	leaderships []*leadership // all that still serve streams
	head        *process      // whose replica is the newest
	election    int64         // the number of the one that is due; what has another is called off
	pending     bool          // one is due
	forced      bool          // it comes though the leader has its quorum
	linger      time.Duration // how long the leader that is to be deposed will not know
	survivor    fsm.Command   // the entry that the deposed leader had on its way
	survivorOf  uint64        // its term
	loser       *process      // whom it takes a grant from without a word
	judged      []judged      // the newest commands of leaders, to be replayed
	asks        dice          // of what servers ask each other
}

type logEntry struct {
	term uint64
	cmd  fsm.Command
}

// judged is a command and the term in which a leader proposed it.
type judged struct {
	term  uint64
	cmd   fsm.Command
	takes bool // a grant, without a word to whom it is taken from
}

// indexStep is the distance of two entries' indexes: a broken state machine needs some in between.
const indexStep = 16

const (
	evElect uint8 = iota
)

func (r *raft) act(_ uint8, n int64) {
	if n == r.election && r.pending {
		r.pending = false
		r.elect()
	}
}

// begin makes the first leader and the settings.
func (r *raft) begin() {
	w := r.w
	r.term = 1
	r.asks = newDice(w.plan.Seed, 17)
	r.head = w.nodes[0]
	var limits []limit.Limit
	for _, l := range w.plan.Limits {
		limit, err := l.limit(limit.SourceConfig)
		if err != nil {
			w.fail(BreachPlan, "the plan has a limit that can't be: %v", err)
		}
		limits = append(limits, limit)
	}
	r.commit(r.term, &fsm.Init{ClusterID: clusterID, TTL: w.plan.TTL.D(), Limits: limits})
	w.nodes[0].running = true
	r.install(w.nodes[0])
	w.nodes[0].running = false
}

// someLeader is one that a node may find: who leads, or somebody who thinks so.
func (r *raft) someLeader(d *dice) *leadership {
	if len(r.leaderships) == 0 {
		return nil
	}
	if r.lead != nil && !d.one(4) {
		return r.lead
	}
	return r.leaderships[d.below(len(r.leaderships))]
}

// quorum reports whether a server reaches a majority, itself included, and is reached by it.
func (r *raft) quorum(x *process) bool {
	if !x.awake() || x.state == nil {
		return false
	}
	return 2*len(r.reached(x)) > r.w.plan.Servers
}

// evaluate looks whether the leader still has its quorum. What waited for that goes on; if it has
// none, there will be an election.
func (r *raft) evaluate() {
	w := r.w
	switch {
	case r.lead == nil:
		if !r.pending {
			r.callElection(w.dice.between(50*ms, 500*ms))
		}
	case r.quorum(r.lead.p):
		if r.pending && !r.forced {
			r.pending = false
			r.election++
		}
		r.lead.unstick()
	case !r.pending:
		r.linger = w.dice.upTo(2*w.plan.TTL.D()) * time.Duration(w.dice.below(2))
		r.callElection(w.dice.between(150*ms, 1500*ms))
	}
}

func (r *raft) callElection(after time.Duration) {
	r.election++
	r.pending = true
	r.w.at(after, r, evElect, r.election)
}

// depose takes the lead from whoever has it; another is elected later. It does not know for a
// while.
func (r *raft) depose(after, linger time.Duration) {
	if r.lead == nil {
		return
	}
	r.linger = linger
	r.dethrone()
	r.callElection(after)
}

func (r *raft) dethrone() {
	l := r.lead
	if l == nil {
		return
	}
	w := r.w
	w.trace.note(w.now, l.p.name, "is deposed in term", l.term, "and does not know for", r.linger)
	r.lead = nil
	if l.inflight != nil {
		r.survivor, r.survivorOf, r.loser = l.inflight, l.term, l.lossFrom
	}
	if r.linger == 0 {
		l.die()
	} else {
		w.at(r.linger, l, evDie, 0)
	}
}

// elect makes somebody the leader who has a quorum, and not the former one where it can be avoided.
func (r *raft) elect() {
	w := r.w
	var able []*process
	for _, x := range w.nodes[:w.plan.Servers] {
		if r.quorum(x) {
			able = append(able, x)
		}
	}
	if len(able) == 0 {
		return // until a link or a process comes back
	}
	r.forced = false
	x := able[w.dice.below(len(able))]
	if r.lead != nil && x == r.lead.p {
		return // it has its quorum back
	}
	r.dethrone()
	x.catchUp()
	if w.every == 1 && r.head != x {
		w.sameState(r.head, x)
	}
	r.head = x
	if r.survivor != nil && w.dice.one(2) {
		w.trace.note(w.now, "log", "the deposed leader's entry survives:", r.survivor)
		if r.loser != nil {
			r.loser.lose()
		}
		r.commit(r.survivorOf, r.survivor)
	}
	r.survivor = nil
	r.install(x)
}

// install begins a term.
func (r *raft) install(x *process) {
	w := r.w
	for _, l := range slices.Clone(r.leaderships) {
		if l.p == x {
			l.die()
		}
	}
	r.term++
	w.trace.note(w.now, x.name, "leads in term", r.term)
	r.lead = newLeadership(x, r.term)
	r.leaderships = append(r.leaderships, r.lead)
	if !x.doubted {
		x.at(r.asks.upTo(w.rtt), true, r.lead, evAskLastLed, 0)
	}
	r.lead.pump()
}

// killed ends what a process led.
func (r *raft) killed(x *process) {
	for _, l := range slices.Clone(r.leaderships) {
		if l.p == x {
			if l == r.lead {
				r.linger = 0
				r.dethrone()
			}
			l.die()
		}
	}
	r.evaluate()
}

// note keeps a command to be replayed.
func (r *raft) note(j judged) {
	const kept = 16
	if len(r.judged) < kept {
		r.judged = append(r.judged, j)
		return
	}
	r.judged[r.w.dice.below(kept)] = j
}

// commit appends an entry, which is committed with that, and applies it where the log is led.
func (r *raft) commit(term uint64, cmd fsm.Command) fsm.Result {
	w := r.w
	if w.plan.Codec {
		decoded, err := fsm.Decode(fsm.Encode(cmd))
		if err != nil {
			w.fail(BreachEncoding, "a command can't be decoded: %v", err)
		} else {
			cmd = decoded
		}
	}
	r.log = append(r.log, logEntry{term, cmd})
	w.out.Entries++
	return r.head.catchUp()
}

// catchUp applies what a server's replica lacks, and returns the last result.
func (x *process) catchUp() (res fsm.Result) {
	r := &x.w.raft
	for x.applied < len(r.log) {
		e := r.log[x.applied]
		x.applied++
		if x == r.head && x.applied == len(r.log) {
			return x.w.up.applied(e, func() fsm.Result { return x.apply(e) })
		}
		res = x.apply(e)
	}
	return res
}

func (x *process) apply(e logEntry) fsm.Result {
	index := uint64(x.applied) * indexStep
	if x.w.rule.ofState() {
		return x.applyBroken(index, e)
	}
	return x.state.Apply(index, e.term, e.cmd)
}

// write commits a command of a client's, if there is a leader that can; followers that think they
// lead may learn of it.
func (r *raft) write(cmd fsm.Command) (fsm.Result, bool) {
	w := r.w
	if r.lead == nil || !r.quorum(r.lead.p) {
		return fsm.Result{}, false
	}
	res := r.commit(r.term, cmd)
	w.trace.note(w.now, "log", "limits:", cmd, "error", res.Err)
	for _, l := range slices.Clone(r.leaderships) {
		if l != r.lead {
			if w.links.raft[r.lead.p.index][l.p.index] != 0 || !l.p.awake() {
				continue
			}
			l.p.catchUp()
		}
		l.alloc.LimitsChanged(l.p.mono(), l.p.state)
		l.pump()
	}
	return res, true
}

// restore lets a server go on from a snapshot of the newest state.
func (r *raft) restore(x *process) {
	w := r.w
	var b bytes.Buffer
	if err := r.head.state.WriteSnapshot(&b); err != nil {
		w.fail(BreachEncoding, "the state can't be written: %v", err)
		return
	}
	st, err := fsm.ReadSnapshot(&b)
	if err != nil {
		w.fail(BreachEncoding, "the state's snapshot can't be read: %v", err)
		return
	}
	x.state, x.applied, x.batches = st, r.head.applied, r.head.batches
	w.trace.note(w.now, x.name, "goes on from a snapshot")
}

// putBack takes the only server's log back to an older copy: the last entries are forgotten, the
// terms that they were in, and the indexes, which are given out again. What nodes hold of them they
// hold until they are told, or their time has run out.
func (r *raft) putBack(x *process, f Fault) {
	w := r.w
	if x.running {
		x.crash()
		w.at(f.For.D(), x, evStart, 0)
	}
	r.putBacks++
	keep := max(1, len(r.log)-f.N)
	w.trace.note(w.now, x.name, "is put back from", len(r.log), "entries to", keep)
	r.log = r.log[:keep]
	r.term = r.log[keep-1].term
	r.survivor, r.loser, r.judged = nil, nil, nil
	x.state, x.applied, x.batches, x.doubted = fsm.NewState(), 0, batches{}, true
	for x.applied < keep {
		e := r.log[x.applied]
		x.applied++
		x.apply(e)
	}
	for _, y := range w.everybody() {
		y.outlived = y.running
	}
	if w.expiry != lease.ExpiryClose {
		w.up.forgetSessions()
	}
	w.up.limitsChanged()
}

// sameState checks that two replicas that have applied the same hold the same.
func (w *world) sameState(x, y *process) {
	if x.applied != y.applied {
		return
	}
	var a, b bytes.Buffer
	if x.state.WriteSnapshot(&a) != nil || y.state.WriteSnapshot(&b) != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		w.fail(BreachReplicas, "the replicas of %s and %s differ after %d entries", x.name, y.name, x.applied)
	}
}
