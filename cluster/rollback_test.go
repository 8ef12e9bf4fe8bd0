package cluster

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func at(term, index uint64) position { return position{Term: term, Index: index} }

func TestJudgePast(t *testing.T) {
	const wait, listen = 10 * time.Second, 3 * time.Second
	says := func(t testimony) testimony { t.answered = true; return t }
	sure := says(testimony{sure: true, known: remembered{at(3, 7), 3}})
	more := says(testimony{sure: true, known: remembered{at(3, 9), 4}})
	leader := says(testimony{sure: true, known: remembered{at(3, 9), 4}, leads: 5, commit: 12})
	both := []raft.ServerID{"b", "c"}
	type heard = map[raft.ServerID]testimony
	for _, c := range []struct {
		name     string
		e        pastEvidence
		released bool
		follows  []uint64 // terms of leaders that it follows
		shuns    []uint64
		votes    position // a candidate of term 6 needs at least this log
		none     bool     // it votes for nobody
		quiet    bool
		lost     position
	}{
		{name: "kept, nobody asked yet", e: pastEvidence{kept: true, end: at(3, 8), voters: both}, follows: []uint64{1, 9}, none: true},
		{name: "kept, nobody answers", e: pastEvidence{kept: true, end: at(3, 8), voters: both, heard: heard{"b": {}, "c": {}}}, released: true},
		{name: "kept, a gap proves nothing", e: pastEvidence{kept: true, end: at(3, 8), voters: both,
			heard: heard{"b": says(testimony{gap: remembered{at(3, 9), 9}}), "c": {}}}, released: true},
		{name: "kept, but a peer knows better", e: pastEvidence{kept: true, end: at(3, 8), voters: both, heard: heard{"b": more, "c": {}}},
			shuns: []uint64{3, 5}, none: true, lost: at(3, 9)},
		{name: "moved, nobody asked yet", e: pastEvidence{end: at(3, 8), voters: both}, shuns: []uint64{1, 9}, none: true},
		{name: "moved, all remember no more", e: pastEvidence{end: at(3, 8), voters: both, heard: heard{"b": sure, "c": sure}}, released: true},
		{name: "moved, one is not sure itself", e: pastEvidence{end: at(3, 8), voters: both, heard: heard{"b": sure, "c": says(testimony{})}},
			shuns: []uint64{9}, none: true},
		{name: "moved, one does not answer", e: pastEvidence{end: at(3, 8), voters: both, heard: heard{"b": sure, "c": {}}},
			shuns: []uint64{9}, none: true},
		{name: "put back", e: pastEvidence{end: at(3, 8), voters: both, heard: heard{"b": sure, "c": more}},
			follows: []uint64{4, 5}, shuns: []uint64{3}, votes: at(3, 9), lost: at(3, 9)},
		{name: "a newer term outweighs a longer log", e: pastEvidence{end: at(4, 8), voters: both, heard: heard{"b": sure, "c": more}}, released: true},
		{name: "moved, a gap counts", e: pastEvidence{end: at(3, 8), voters: both,
			heard: heard{"b": sure, "c": says(testimony{sure: true, gap: remembered{at(3, 11), 5}})}},
			follows: []uint64{5}, shuns: []uint64{4}, votes: at(3, 11)},
		{name: "put back, and not brought up yet", e: pastEvidence{end: at(5, 10), voters: both, heard: heard{"b": leader, "c": {}}, term: 5, matched: 10},
			shuns: []uint64{5}, none: true},
		{name: "brought up", e: pastEvidence{end: at(5, 12), voters: both, heard: heard{"b": leader, "c": {}}, term: 5, matched: 12}, released: true},
		{name: "brought up by a leader of another term", e: pastEvidence{end: at(5, 12), voters: both, heard: heard{"b": leader, "c": {}}, term: 6, matched: 12},
			shuns: []uint64{6}, none: true},
		{name: "brought up to the commit, not to its own mark", e: pastEvidence{end: at(3, 8), voters: both, term: 5, matched: 8,
			heard: heard{"b": says(testimony{sure: true, known: remembered{at(3, 9), 4}, leads: 5, commit: 8}), "c": {}}},
			shuns: []uint64{5}, none: true, lost: at(3, 9)},
		{name: "silent long enough, the others are not", e: pastEvidence{end: at(3, 8), voters: both, silent: wait,
			heard: heard{"b": says(testimony{sure: true, silent: wait - 1}), "c": {}}}, follows: []uint64{1}, none: true},
		{name: "a majority is silent", e: pastEvidence{end: at(3, 8), voters: both, silent: wait,
			heard: heard{"b": says(testimony{sure: true, silent: wait}), "c": {}}}, follows: []uint64{1}, none: true, quiet: true},
		{name: "the others are silent, this server is not", e: pastEvidence{end: at(3, 8), voters: both, silent: wait - 1,
			heard: heard{"b": says(testimony{silent: wait}), "c": says(testimony{silent: wait})}}, shuns: []uint64{9}, none: true},
		{name: "half of four is no majority", e: pastEvidence{end: at(3, 8), voters: []raft.ServerID{"b", "c", "d"}, silent: wait,
			heard: heard{"b": says(testimony{silent: wait}), "c": {}, "d": {}}}, follows: []uint64{1}, none: true},
		{name: "elected by a majority's promise", e: pastEvidence{end: at(4, 8), voters: both, silent: 1, leads: true,
			heard: heard{"b": more, "c": {}}}, released: true},
		{name: "alone, kept", e: pastEvidence{kept: true, end: at(3, 8), configured: true}, released: true},
		{name: "alone, moved, listening", e: pastEvidence{end: at(3, 8), configured: true, silent: listen - 1}, follows: []uint64{1}},
		{name: "alone, moved, nobody called", e: pastEvidence{end: at(3, 8), configured: true, silent: listen}, released: true},
		{name: "kept, with an empty log", e: pastEvidence{kept: true}, released: true},
		{name: "put back to an empty log", e: pastEvidence{silent: wait - 1}, shuns: []uint64{1, 9}, none: true},
		{name: "put back to an empty log, silent long enough", e: pastEvidence{silent: wait}, follows: []uint64{1}, none: true},
		{name: "put back to an empty log, it has waited and follows a leader", e: pastEvidence{silent: 1, term: 5, settled: 5}, follows: []uint64{5, 6}, shuns: []uint64{4}, none: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.e.wait, c.e.listen, c.e.configured = wait, listen, c.e.configured || len(c.e.voters) > 0
			v := judgePast(c.e)
			if v.released != c.released || v.quiet != c.quiet || v.lost != c.lost {
				t.Errorf("got %+v, want released %v, quiet %v, lost %v", v, c.released, c.quiet, c.lost)
			}
			for _, term := range c.follows {
				if !v.mayFollow(term) {
					t.Errorf("it does not follow the leader of term %d: %+v", term, v)
				}
			}
			for _, term := range c.shuns {
				if v.mayFollow(term) {
					t.Errorf("it follows the leader of term %d: %+v", term, v)
				}
			}
			if c.none && v.mayVote(6, at(99, 99)) {
				t.Errorf("it votes: %+v", v)
			}
			if c.votes != (position{}) {
				short := c.votes
				short.Index--
				if !v.mayVote(6, c.votes) || v.mayVote(6, short) || v.mayVote(v.voted, at(99, 99)) {
					t.Errorf("it votes wrongly: %+v", v)
				}
			}
		})
	}
}

// Who has waited and follows a leader is silent no longer, and goes on following.
func TestFollowingGoesOn(t *testing.T) {
	const wait = 10 * time.Second
	g := &pastGuard{verdict: judgePast(pastEvidence{silent: wait - 1, wait: wait})}
	if g.admitLeader(5) == nil {
		t.Error("it follows before it has waited")
	}
	g.verdict = judgePast(pastEvidence{silent: wait, wait: wait})
	must(t, g.admitLeader(5))
	g.verdict = judgePast(pastEvidence{silent: 1, wait: wait, settled: g.settled})
	must(t, g.admitLeader(5))
	must(t, g.admitLeader(6))
	if g.admitLeader(4) == nil {
		t.Error("it follows an earlier leader")
	}
}

func TestPlacesDiffer(t *testing.T) {
	p := place{Boot: "b", Log: fileID{Device: 1, Inode: 2, Born: 3}, Witness: fileID{Device: 1, Inode: 4, Born: 5, Changed: 6}}
	if err := p.sameAs(p); err != nil {
		t.Errorf("the same place differs: %v", err)
	}
	for name, change := range map[string]func(*place){
		"boot":           func(p *place) { p.Boot = "c" },
		"unknown boot":   func(p *place) { p.Boot = "" },
		"device":         func(p *place) { p.Log.Device++ },
		"inode":          func(p *place) { p.Log.Inode++ },
		"birth":          func(p *place) { p.Log.Born++ },
		"witness":        func(p *place) { p.Witness.Inode++ },
		"witness change": func(p *place) { p.Witness.Changed++ },
		"no witness":     func(p *place) { p.Witness = fileID{} },
	} {
		q := p
		change(&q)
		if p.sameAs(q) == nil {
			t.Errorf("%s: no difference is seen", name)
		}
	}
	if (place{}).sameAs(place{}) == nil {
		t.Error("two places of which nothing is known are taken for one")
	}
}
