package resolve

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestOrderOfServers(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b, c := &server{addr: netip.MustParseAddrPort("10.0.0.1:53")}, &server{}, &server{}
	all := []*server{a, b, c}
	check := func(offset int, want ...*server) []*server {
		t.Helper()
		list, probes := order(all, offset, now)
		if !slices.Equal(list, want) {
			t.Errorf("order %v, want %v", list, want)
		}
		return probes
	}
	check(0, a, b, c)
	check(1, b, c, a)
	a.silent(now, now)
	check(0, b, c, a)
	b.outdone(now)
	check(0, c, a, b)
	c.silent(now, now)
	check(0, a, b, c)
	b.answered(now, now.Add(time.Millisecond))
	check(0, b, a, c)

	now = now.Add(lastFor)
	if probes := check(0, b, a, c); !slices.Equal(probes, []*server{a, c}) {
		t.Errorf("probes %v", probes)
	}
	if probes := check(0, b, a, c); len(probes) != 0 {
		t.Errorf("the second lookup probes too: %v", probes)
	}
	a.answered(now, now.Add(2*patience))
	check(0, b, a, c) // it answers, but slowly
}

func TestServerIsReportedOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	var s server
	for i, want := range []news{noNews, newsSilent, noNews} {
		if got := s.silent(now, now); got != want {
			t.Errorf("silence %d: news %d, want %d", i+1, got, want)
		}
	}
	if s.answered(now, now) != newsBack || s.answered(now, now) != noNews {
		t.Error("its return is not reported once")
	}
	s.silent(now, now)
	s.answered(now, now)
	if s.silent(now.Add(time.Second), now) != noNews {
		t.Error("two silences that are not in a row are reported")
	}
	s.answered(now, now.Add(3*time.Second))
	if s.silent(now.Add(2*time.Second), now.Add(7*time.Second)); s.unanswered != 0 {
		t.Error("a server that answers others counts as silent")
	}
}

func TestPlan(t *testing.T) {
	a, b := &server{}, &server{}
	p := plan{servers: []*server{a, b}, attempts: 2}
	for i, want := range []struct {
		s     *server
		pause time.Duration
	}{{a, patience}, {b, roundPause}, {a, roundPause}, {b, roundPause}} {
		if s, pause, ok := p.next(); s != want.s || pause != want.pause || !ok {
			t.Errorf("step %d: %p after which %v, %v", i, s, pause, ok)
		}
	}
	if _, _, ok := p.next(); ok || !p.over() {
		t.Error("it goes on after its last attempt")
	}
	p = plan{servers: []*server{a, b}, attempts: 2}
	p.next()
	p.drop(a)
	if s, _, _ := p.next(); s != b {
		t.Error("after the first has failed the second is not next")
	}
	if p.drop(b); !p.over() {
		t.Error("all have failed, and it goes on")
	}
}
