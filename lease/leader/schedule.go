package leader

import (
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/due"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

const (
	// takeOverRest is how long slots freed by a take-over rest: the upstream has yet to see the old
	// sockets close.
	takeOverRest = 250 * time.Millisecond
	// minTurn is the shortest time that a slot stays with a node while another waits for it. It
	// grows with the time of a commit, so that handing over costs a few percent at most.
	minTurn = 100 * time.Millisecond
	maxTurn = 2 * time.Second
	// turnCommits is how many commits' time a turn lasts at least.
	turnCommits = 60
)

// schedule is which keys are to be planned, when, and the entry that is on its way.
type schedule struct {
	dirty  []*contest
	review []*contest         // to be decided anew when there is time, some at once
	waking due.Heap[*contest] // to be planned again at some time
	rests  map[limit.Key]rest
	sheet  sheet

	batch     uint64
	judgedBy  uint64 // the table by which the newest of them was made
	inflight  fsm.Command
	gather    time.Duration // no slots are adjusted before this
	notBefore time.Duration // a new leader grants nothing before this; the very first need not wait
	turn      time.Duration
	commit    time.Duration // moving average

	gate  gate
	shape uint64 // of the limits that it goes by

	distrusts bool // the levels in the log, up to trustFrom and the time to fill
	trustFrom time.Duration
	// limitSince is when this leader saw a limit first, by its ModifyIndex.
	limitSince map[uint64]time.Duration
}

// rest is freed slots that may not be granted yet.
type rest struct {
	slots int64
	until time.Duration
}

const (
	// gatherFrom is how many changes an entry must have for the next one to wait for more. Lowering
	// it would make a few nodes that hand slots of one host to each other wait at each hand-over.
	gatherFrom = 12
	// maxGather bounds that wait, which is a commit: where that takes long, much arrives meanwhile
	// in any case.
	maxGather = 2 * time.Millisecond
)

// NoteCommit adapts the length of a turn to the cost of handing over: a moving average of the time
// of a commit. It falls faster than it rises. Otherwise turns would stay too long after a disk has
// been slow for a while, because few commits are made meanwhile.
func (a *Allocator) NoteCommit(took time.Duration) {
	if took < a.commit {
		a.commit += (took - a.commit) / 2
	} else {
		a.commit += (took - a.commit) / 8
	}
	a.turn = min(max(minTurn, turnCommits*a.commit), maxTurn)
}

func (a *Allocator) mark(c *contest) {
	if !c.dirty {
		c.dirty = true
		a.dirty = append(a.dirty, c)
	}
}

// wakeAt asks for another plan at a time, the earliest of those asked for.
func (a *Allocator) wakeAt(c *contest, at time.Duration) {
	switch {
	case c.wake == 0:
		c.wake = at
		a.waking.Push(c)
	case at < c.wake:
		c.wake = at
		a.waking.Fix(c)
	}
}

// DueAt implements [due.Item].
func (c *contest) DueAt() time.Duration { return c.wake }

// Place implements [due.Item].
func (c *contest) Place() *int { return &c.wakeIndex }

// reviewAtOnce bounds the keys that are decided anew, after new limits, before whoever asks has
// their turn.
const reviewAtOnce = 512

// takeUp marks the next keys of the review.
func (a *Allocator) takeUp() {
	k := min(len(a.review), reviewAtOnce)
	for _, c := range a.review[:k] {
		if a.keys[c.key] == c {
			a.mark(c)
		}
	}
	if a.review = a.review[k:]; len(a.review) == 0 {
		a.review = nil
	}
}

// adjust plans all dirty keys and returns the entry, or nil where nothing changes.
func (a *Allocator) adjust(now time.Duration, st *fsm.State) fsm.Command {
	var less, more []fsm.Adjustment
	a.takeUp()
	k := 0
	for ; k < len(a.dirty) && len(less)+len(more) < leasepb.MaxBatch; k++ {
		c := a.dirty[k]
		c.dirty = false
		for _, d := range c.demands {
			if d.releasing > 0 {
				less = append(less, fsm.Adjustment{Session: d.peer.ID, Key: c.key, Delta: -d.releasing, Level: d.level})
			}
		}
		more = append(more, a.plan(now, st, c)...)
		for _, d := range c.demands {
			d.releasing, d.level, d.fetched = 0, 0, 0 // in the entry now
		}
		a.tidy(c)
	}
	a.dirty = append(a.dirty[:0], a.dirty[k:]...)
	forget := a.forgettable(now, st)
	if len(less)+len(more)+len(forget) == 0 {
		return nil
	}
	a.batch++
	a.judgedBy = st.Table().Index
	return &fsm.Adjust{Term: a.term, Batch: a.batch, Adjustments: append(less, more...), Forget: forget}
}

// adjusted tells nodes of their new slots, which are theirs only now that they are committed. How
// much lies in the shares of a rate, the log decides.
func (a *Allocator) adjusted(now time.Duration, st *fsm.State, cmd *fsm.Adjust, res fsm.Result) {
	if res.Err != nil {
		a.restore(cmd)
		for _, key := range cmd.Forget {
			a.noteVacant(now, st, key)
		}
		return
	}
	for _, adj := range res.Adjusted {
		if adj.Delta != 0 {
			a.noteVacant(now, st, adj.Key)
		}
		c := a.keys[adj.Key]
		if c != nil {
			a.mark(c)
		}
		p := a.peers[adj.Session]
		if adj.Delta <= 0 || p == nil || p.conn == 0 || !p.proven {
			continue
		}
		if early := a.early(now, st, adj); early > 0 {
			d := a.demandOf(p, adj.Key)
			d.releasing += early // the node has not heard of it
			a.mark(d.c)
			if adj.Delta -= early; adj.Delta == 0 {
				continue
			}
		}
		as := p.assigning()
		as.Grants = append(as.Grants, &leasepb.Holding{Key: fsmpb.KeyOf(adj.Key), Slots: adj.Delta, Level: a.level(now, st, adj.Key, adj.Level)})
	}
}

// early is how many slots of a grant may not be used, though the log had room for them: while the
// grant was on its way, the limit was lowered, below what others hold and what rests, of which the
// log knows nothing; or the patterns changed, and connections or slots that rest may count under its
// key that did not then.
func (a *Allocator) early(now time.Duration, st *fsm.State, grant fsm.Adjustment) int64 {
	l, c := st.Table().Governing(grant.Key), a.keys[grant.Key]
	if grant.Key.Resource.IsRate() || !l.Caps(grant.Key.Resource) {
		return 0
	}
	if now < a.notBefore {
		return grant.Delta
	}
	if a.gate.follow(now, a.ttl, st.Table()); !l.Report && a.gate.since(grant.Key, l) > a.judgedBy {
		return grant.Delta
	}
	if c != nil && !l.Report {
		if _, closed := a.gateClosed(now, st, c, l); closed {
			return grant.Delta
		}
	}
	taken := st.Granted(grant.Key)
	if r := a.rests[grant.Key]; now < r.until {
		taken += r.slots
	}
	if c != nil {
		for _, d := range c.demands {
			taken -= d.releasing // is out of use
		}
	}
	return max(0, min(taken-l.Connections, grant.Delta))
}

// restore keeps what a void entry was to release, with its level: it had no effect, so the slots
// are still granted, and out of use at their nodes. A node whose stream has ended meanwhile states
// what it holds on the next.
func (a *Allocator) restore(cmd *fsm.Adjust) {
	for _, adj := range cmd.Adjustments {
		p := a.peers[adj.Session]
		if p == nil || p.conn == 0 || !p.proven {
			continue
		}
		d := a.demandOf(p, adj.Key)
		if adj.Delta < 0 {
			d.release(-adj.Delta, adj.Level)
		}
		a.mark(d.c)
	}
}

// freed plans the keys again of which slots came back.
func (a *Allocator) freed(now time.Duration, st *fsm.State, adjustments []fsm.Adjustment) {
	for _, f := range adjustments {
		a.noteVacant(now, st, f.Key)
		if c := a.keys[f.Key]; c != nil {
			a.mark(c)
		}
	}
}
