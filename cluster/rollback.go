package cluster

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A server's disk may have been put back to an older copy. It then lacks entries that it had
// acknowledged, and votes that it had given, both of which Raft takes to be there for good: with
// such a server, a majority may elect a leader without what a majority had committed. So a server
// that starts with Raft state is in doubt until the decision here says otherwise. Until then it
// doesn't stand for election, and it takes part only as far as that is safe.
//
//   - It is released where its files are the ones that it wrote to last (kept) and nobody remembers
//     more than its log holds; where all other voters are sure of their memory and remember no more
//     (complete); or where the leader has brought it up to all that anybody remembers, and to what
//     is committed.
//   - Once all that it can have forgotten is known, it follows leaders of the terms that it may
//     have voted in last or later, and votes for candidates whose log reaches what it had
//     acknowledged.
//   - Where a voter that may remember more is gone, it waits until every session that hangs on
//     forgotten entries has run out: a session lives for a ttl after a majority last confirmed its
//     leader, and a majority has then promised to confirm none of those leaders any more (see
//     pastGuard.promise).

// testimony is another voter's answer.
type testimony struct {
	sure     bool // its own memory is complete, except for the gap
	known    remembered
	gap      remembered
	silent   time.Duration // time since it heard of a leader, when it answered
	leads    uint64        // > 0: it leads in that term
	commit   uint64
	promised bool // the promise that it was asked for
	answered bool
}

// pastEvidence is the evidence about a server in doubt.
type pastEvidence struct {
	kept bool // the files are those that it last wrote to
	end  position
	// configured says that it knows a configuration. A copy may be from before it had one.
	configured bool
	voters     []raft.ServerID // the others of its configuration
	// heard has an entry for each voter that has been asked, whether or not it has answered.
	heard  map[raft.ServerID]testimony
	silent time.Duration // since this server followed or led, or since it started
	// settled is the term of the first leader that it followed after it had been silent for long
	// enough; 0: there was none yet. It goes on following, though it is silent no longer.
	settled uint64
	wait    time.Duration // after so much silence, no session is alive
	listen  time.Duration // how long the only voter listens for a cluster that knows it
	leads   bool
	term    uint64 // in which it follows a leader now
	matched uint64 // up to there its log is certain to be that leader's
}

// pastVerdict says what a server may do.
type pastVerdict struct {
	released bool
	why      string // it was released
	alone    bool   // it was released because there is no other server
	kept     bool   // its files are as it left them, and nobody remembers more
	// complete says that had and voted cover everything that it can have acknowledged and voted.
	complete bool
	had      position // the end of what it acknowledged, or may have acknowledged
	voted    uint64
	// lost is the known former end of the log, if the log no longer reaches it.
	lost position
	// waited says that this server has followed nobody for so long that no session depends on what
	// it did before. quiet says the same of a majority, when it was last asked.
	waited, quiet bool
	settled       uint64 // see pastEvidence
}

// judgePast decides. It has no side effects.
func judgePast(e pastEvidence) pastVerdict {
	// Without a configuration nobody can be asked, and nothing says what it has forgotten.
	v := pastVerdict{complete: e.configured, waited: e.silent >= e.wait, settled: e.settled}
	asked, quiet := true, 0
	if v.waited {
		quiet++
	}
	var leader *testimony
	for _, id := range e.voters {
		t, tried := e.heard[id]
		asked = asked && tried
		v.complete = v.complete && t.answered && t.sure
		if !t.answered {
			continue
		}
		if t.silent >= e.wait {
			quiet++
		}
		v.had = later(v.had, t.known.Acknowledged)
		v.voted = max(v.voted, t.known.Voted)
		if t.leads != 0 && t.leads == e.term {
			leader = &t
		}
	}
	if e.end.before(v.had) {
		v.lost = v.had
	}
	// If the files were kept, they can't have lost facts that the others are unsure of.
	v.kept = e.kept && v.lost == position{}
	if !v.kept {
		for _, id := range e.voters {
			v.had = later(v.had, e.heard[id].gap.Acknowledged)
			v.voted = max(v.voted, e.heard[id].gap.Voted)
		}
	}
	v.quiet = len(e.voters) > 0 && v.waited && quiet > (len(e.voters)+1)/2
	reaches := !e.end.before(v.had)
	switch {
	case e.leads: // a majority has promised, so nothing depends on what it forgot
		v.released, v.why = true, "it was elected, long after any session of before"
	case v.kept && asked:
		v.released, v.why = true, "its disk is the one that it wrote to last"
	case e.configured && len(e.voters) == 0:
		v.released, v.why = e.silent >= e.listen, "it is the only server, and no other has called"
		v.alone = v.released
	case v.complete && reaches:
		v.released, v.why = true, "all other servers remember no more than its log holds"
	case leader != nil && reaches && e.matched >= leader.commit:
		v.released, v.why = true, "the leader has brought it up to date"
	}
	return v
}

// mayFollow reports whether a server in doubt may follow a leader of a term.
func (v pastVerdict) mayFollow(term uint64) bool {
	settled := v.settled != 0 && term >= v.settled
	return v.released || v.kept || term >= v.voted && (v.complete || v.waited || settled)
}

// mayVote reports whether a server in doubt may vote, without a promise, for a candidate whose log
// ends at a position.
func (v pastVerdict) mayVote(term uint64, end position) bool {
	return v.released || v.complete && term > v.voted && !end.before(v.had)
}

func (p position) String() string { return fmt.Sprintf("entry %d of term %d", p.Index, p.Term) }
