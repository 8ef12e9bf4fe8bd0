package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestWatchdog(t *testing.T) {
	t.Parallel()
	const limit, stall = 5 * time.Second, 2 * time.Second
	type look struct {
		at   int // seconds
		v    vitals
		want remedy
	}
	idle := vitals{term: 1, commit: 9}
	waits := vitals{term: 1, commit: 9, pending: true}
	stuck := vitals{term: 1, commit: 9, pending: true, diskBusy: stall}
	slow := vitals{term: 1, commit: 9, diskBusy: stall - 1, raftSilent: stall - 1}
	silent := vitals{term: 1, commit: 9, raftSilent: stall}
	unproven := vitals{term: 1, commit: 9, unproven: limit}
	for what, looks := range map[string][]look{
		"an idle leader is left alone":     {{0, idle, remedyNone}, {60, idle, remedyNone}},
		"so is a follower":                 {{0, vitals{pending: true}, remedyNone}, {60, vitals{pending: true, diskBusy: stall}, remedyNone}},
		"a commit in time":                 {{0, waits, remedyNone}, {4, waits, remedyNone}, {6, vitals{term: 1, commit: 10, pending: true}, remedyNone}},
		"the others' disks: never mute":    {{0, waits, remedyNone}, {5, waits, remedyHandOver}, {6, waits, remedyNone}, {10, waits, remedyHandOver}, {15, waits, remedyHandOver}},
		"the own disk: mute":               {{0, idle, remedyNone}, {1, waits, remedyNone}, {2, stuck, remedyMute}, {60, stuck, remedyMute}},
		"a write that ends in time":        {{0, idle, remedyNone}, {2, slow, remedyNone}, {4, slow, remedyNone}},
		"raft is silent: mute":             {{0, idle, remedyNone}, {2, silent, remedyMute}, {10, silent, remedyMute}},
		"the others do not confirm it":     {{0, vitals{term: 1, commit: 9, unproven: limit - 1}, remedyNone}, {5, unproven, remedyHandOver}, {6, unproven, remedyNone}, {10, unproven, remedyHandOver}},
		"it recovers":                      {{0, idle, remedyNone}, {2, stuck, remedyMute}, {6, waits, remedyNone}, {9, vitals{term: 1, commit: 10}, remedyNone}, {20, idle, remedyNone}},
		"leadership ends":                  {{0, idle, remedyNone}, {2, stuck, remedyMute}, {3, vitals{diskBusy: stall}, remedyNone}, {10, vitals{diskBusy: stall}, remedyNone}},
		"a stall that began before a term": {{0, vitals{diskBusy: stall}, remedyNone}, {1, stuck, remedyMute}},
	} {
		start := time.Now()
		dog := &watchdog{limit: limit, stall: stall, since: start}
		for _, l := range looks {
			if got := dog.look(start.Add(time.Duration(l.at)*time.Second), l.v); got != l.want {
				t.Errorf("%s: after %d s: %d, want %d", what, l.at, got, l.want)
			}
		}
	}
}

// A leader that stood still is not judged by the time in which it did: its own write and its
// questions waited with it. What lasts after that counts.
func TestWatchdogAllowsForAStandstill(t *testing.T) {
	t.Parallel()
	const limit, stall = 5 * time.Second, 2 * time.Second
	for name, waits := range map[string]vitals{
		"a write": {diskBusy: time.Hour}, "Raft's answer": {raftSilent: time.Hour}, "the others' answer": {unproven: time.Hour},
	} {
		start := time.Now()
		dog, pace := &watchdog{limit: limit, stall: stall, since: start}, &pace{most: stall / 2}
		waits.term, waits.commit = 1, 9
		at := func(after time.Duration, v vitals) remedy {
			now := start.Add(after)
			return dog.look(now, v.within(pace.ran(now)))
		}
		for after := time.Duration(0); after <= 10*time.Second; after += stall / 4 {
			at(after, vitals{term: 1, commit: 9})
		}
		const woke = 12280 * time.Millisecond
		for after := woke; after < woke+stall; after += stall / 4 {
			if got := at(after, waits); got != remedyNone {
				t.Errorf("%s, %v after a standstill of 2.28 s: remedy %d", name, after-woke, got)
			}
		}
		got := remedyNone
		for after := woke + stall; after <= woke+limit; after += stall / 4 {
			got = max(got, at(after, waits))
		}
		if got == remedyNone {
			t.Errorf("%s that goes on after the standstill has no remedy", name)
		}
	}
}

// Raft's silence is that of its main loop. A question that waits is not asked again.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		answer := make(chan struct{})
		p := &pulse{ask: func() { asked.Add(1); <-answer }}
		for range 4 {
			p.silentFor(time.Now())
			time.Sleep(time.Second)
		}
		if silent := p.silentFor(time.Now()); silent != 4*time.Second || asked.Load() != 1 {
			t.Errorf("silent for %v after %d questions, want 4s and 1", silent, asked.Load())
		}
		answer <- struct{}{}
		synctest.Wait()
		if silent := p.silentFor(time.Now()); silent != 0 {
			t.Errorf("silent for %v after an answer", silent)
		}
		answer <- struct{}{}
	})
}

// An answer to a heartbeat that was sent before the question proves nothing about the time after
// it.
func TestVerificationNeedsFreshAnswers(t *testing.T) {
	t.Parallel()
	asked := time.Now()
	before, after := asked.Add(-time.Millisecond), asked.Add(time.Millisecond)
	voters := func(ids ...raft.ServerID) (list []raft.Server) {
		for _, id := range ids {
			list = append(list, raft.Server{ID: id, Suffrage: raft.Voter})
		}
		return list
	}
	three, five := voters("a", "b", "c"), voters("a", "b", "c", "d", "e")
	learner := append(voters("a", "b", "c"), raft.Server{ID: "n", Suffrage: raft.Nonvoter})
	type ack struct {
		id   raft.ServerID
		term uint64
		sent time.Time
	}
	for what, c := range map[string]struct {
		servers []raft.Server
		acks    []ack
		want    bool
	}{
		"alone":                        {voters("a"), nil, true},
		"nobody has answered":          {three, nil, false},
		"one of two others":            {three, []ack{{"b", 3, after}}, true},
		"at the very moment":           {three, []ack{{"b", 3, asked}}, true},
		"only from before":             {three, []ack{{"b", 3, before}, {"c", 3, before}}, false},
		"fresh, then a late stale one": {three, []ack{{"b", 3, after}, {"b", 3, before}}, true},
		"in a former term":             {three, []ack{{"b", 2, after}, {"c", 2, after}}, false},
		"in a later term":              {three, []ack{{"b", 4, after}}, false},
		"one of four others":           {five, []ack{{"b", 3, after}, {"c", 3, before}}, false},
		"two of four others":           {five, []ack{{"b", 3, after}, {"d", 3, after}}, true},
		"a server without a vote":      {learner, []ack{{"n", 3, after}}, false},
		"a server that is gone":        {three, []ack{{"x", 3, after}}, false},
	} {
		book := &ackBook{}
		for _, a := range c.acks {
			book.note(a.id, a.term, a.sent)
		}
		if got := book.quorumSince(3, asked, "a", c.servers); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

func TestWhoAsksDuringACheckWaitsForTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		checks := make(chan chan error)
		v := &verifier{check: func(time.Time) error {
			answer := make(chan error)
			checks <- answer
			return <-answer
		}}
		results := make(chan error, 3)
		ask := func() { results <- v.verify(t.Context()) }
		go ask()
		first := <-checks
		go ask()
		go ask()
		synctest.Wait()
		first <- nil
		if err := <-results; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("a check that began before the question has answered it")
		}
		second := <-checks // one for both
		second <- ErrNotLeader
		for range 2 {
			if err := <-results; !errors.Is(err, ErrNotLeader) {
				t.Errorf("got %v", err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { results <- v.verify(ctx) }()
		third := <-checks
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		third <- nil
		synctest.Wait()
	})
}
