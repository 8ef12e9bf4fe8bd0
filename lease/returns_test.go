package lease

import (
	"errors"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// A request that had its turn under one of its limits, and had to wait for another, comes back to
// the queue of the first. It keeps its place there: newcomers that took it meanwhile came later.
func TestPlaceInAQueueIsKept(t *testing.T) {
	const client = "10.0.0.1"
	keys := []limit.Key{
		{Scope: limit.ScopeClient, Resource: limit.Requests, Name: client},
		{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"},
	}
	slow := requestLimit(t, "up", "1/s", 1, limit.Queue{Timeout: time.Minute, Size: 1})
	slow.Pattern, _ = limit.ScopeClient.ParsePattern(client)
	m, clock := meterNode(t, keys, slow, requestLimit(t, "up", "2/s", 1, limit.Queue{Timeout: time.Minute, Size: 9}))
	draw := func(client, host string) *Draw {
		return NewDraw(&limit.Subject{Client: limit.ClientOf(addr(t, client)), Host: to(t, host)}, 0)
	}
	take := func(d *Draw) (answers chan error) {
		t.Helper()
		answers = make(chan error, 1)
		m.do(func(now time.Duration) {
			if _, err := m.node.Take(now, d, func(err error) { answers <- err }); err != nil {
				t.Fatal(err)
			}
		})
		return answers
	}
	answered := func() { // what is asked: nothing is free
		said(m)
		m.do(func(now time.Duration) {
			p := m.node.lookup(keys[0])
			m.node.answered(now, p, &leasepb.Answer{Ask: p.ask})
			if err := m.node.Check(); err != nil {
				t.Error(err)
			}
		})
	}
	turn := func(what string, answers chan error) {
		t.Helper()
		select {
		case err := <-answers:
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		default:
			t.Fatalf("%s: it waits on", what)
		}
	}

	first := draw(client, "up")
	waits := take(first)
	m.pass(clock, time.Second) // the host has a token
	take(draw("10.0.0.2", "up"))
	m.pass(clock, 2*time.Millisecond) // and the client
	turn("its client's token is there", waits)
	waits = take(first)
	if u, _ := m.Use(keys[1]); u.Waiting != 1 {
		t.Fatalf("its host has no token: %+v", u)
	}
	if d := draw(client, "other"); take(d) == nil || !d.taken {
		t.Fatal("its client's token is kept from others meanwhile")
	}
	second := draw(client, "other") // takes the place
	secondWaits := take(second)
	m.pass(clock, 500*time.Millisecond)
	turn("its host's token is there", waits)

	waits = take(first)
	third := take(draw(client, "other"))
	answered()
	var over *LimitError
	select {
	case err := <-third:
		if !errors.As(err, &over) || over.Why != ErrQueueFull {
			t.Errorf("a newcomer that finds the queue full: %v", err)
		}
	default:
		t.Error("a newcomer finds a place in a queue that is more than full")
	}
	if u, _ := m.Use(keys[0]); u.Waiting != 2 {
		t.Errorf("%d wait for the client's next token, want those two that came first", u.Waiting)
	}
	m.pass(clock, 502*time.Millisecond)
	turn("it came first", waits)
	if take(first); !first.taken {
		t.Error("it has not got its tokens")
	}
	if len(secondWaits) > 0 {
		t.Error("the one that came later has its turn as well")
	}
}
