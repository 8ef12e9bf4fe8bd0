package fsm

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

var totalRequests = limit.Key{Scope: limit.ScopeTotal, Resource: limit.Requests}

// perSecond is a limit of all requests together: burst at once, which is burst million grains.
func perSecond(burst int64) *PutLimit {
	return &PutLimit{Limit: limit.Limit{
		Pattern: limittest.Scoped(limit.ScopeTotal, ""), Connections: limit.Unlimited,
		Requests: limit.Rate{Thousandths: 1000, Per: time.Second, Burst: burst}, Source: limit.SourceAPI,
	}}
}

// rated has two sessions, 2 and 3, and a limit of 10 requests at once.
func rated(t *testing.T) *State {
	s := NewState()
	run(t, s, perSecond(10), &OpenSession{Term: 1, Node: "a", Identity: "i"}, &OpenSession{Term: 1, Node: "b", Identity: "i"})
	return s
}

// moved applies one adjustment, and answers what was moved and what is left free.
func moved(t *testing.T, s *State, session uint64, delta, level int64) string {
	t.Helper()
	r := run(t, s, &Adjust{Term: 1, Batch: s.Batch(1) + 1, Adjustments: []Adjustment{{Session: session, Key: totalRequests, Delta: delta, Level: level}}})
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d with %d, free %d", r.Adjusted[0].Delta, r.Adjusted[0].Level, s.FreeLevel(totalRequests))
}

// Invariant 4, a step after the other.
func TestLevelsMove(t *testing.T) {
	s := rated(t)
	for i, c := range []struct {
		do   func() string
		want string
	}{
		{func() string { return moved(t, s, 2, -5, 5) }, "0 with 0, free 10000000"}, // nothing to give back, and nothing is leased yet
		{func() string { return moved(t, s, 9, 5, 0) }, "0 with 0, free 10000000"},  // no such session
		{func() string { return moved(t, s, 2, 0, 5) }, "0 with 0, free 10000000"},
		{func() string { return moved(t, s, 2, 600_000, 77) }, "600000 with 6000000, free 4000000"}, // never leased: full; the entry's level is not asked
		{func() string { return moved(t, s, 3, 100_000, 0) }, "100000 with 1000000, free 3000000"},
		{func() string { return moved(t, s, 3, -100_000, 0) }, "-100000 with 0, free 3000000"},
		{func() string { return moved(t, s, 3, 100_000, 0) }, "100000 with 1000000, free 2000000"}, // as much as it holds
		{func() string { return moved(t, s, 2, -100_000, 5_000_000) }, "-100000 with 1000000, free 3000000"},
		{func() string { return moved(t, s, 2, -100_000, -1) }, "-100000 with 0, free 3000000"},
		{func() string { return moved(t, s, 2, math.MinInt64, 300_000) }, "-400000 with 300000, free 3300000"},
		{func() string { return moved(t, s, 2, -1, 300_000) }, "0 with 0, free 3300000"}, // it holds nothing any more
		{func() string { return moved(t, s, 2, math.MaxInt64, 0) }, "900000 with 3300000, free 0"},
		{func() string { return moved(t, s, 3, 1, 0) }, "0 with 0, free 0"},
	} {
		if got := c.do(); got != c.want {
			t.Errorf("step %d: %s, want %s", i, got, c.want)
		}
	}
}

// Where a burst does not divide the shares, those that are left over make no unit and hold nothing:
// all units take the whole burst with them, and each its own part.
func TestSharesBesideUnitsHoldNothing(t *testing.T) {
	for burst, unit := range map[int64]int64{3: 333_333, 60: 16_666, 700: 1428} {
		s := NewState()
		run(t, s, perSecond(burst), &OpenSession{Term: 1, Node: "a", Identity: "i"}, &OpenSession{Term: 1, Node: "b", Identity: "i"})
		rest := (burst - 1) * unit
		for i, c := range []struct {
			session, delta, level int64
			want                  string
		}{
			{2, rest, 0, fmt.Sprintf("%d with %d, free 1000000", rest, (burst-1)*1_000_000)},
			{3, unit, 0, fmt.Sprintf("%d with 1000000, free 0", unit)},
			{2, -rest, (burst - 1) * 1_000_000, fmt.Sprintf("-%d with %d, free %[2]d", rest, (burst-1)*1_000_000)},
			{3, -unit, 1_000_000, fmt.Sprintf("-%d with 1000000, free %d", unit, burst*1_000_000)},
			{2, rest + unit, 0, fmt.Sprintf("%d with %d, free 0", rest+unit, burst*1_000_000)},
			{3, limit.Shares, 0, fmt.Sprintf("%d with 0, free 0", limit.Shares-rest-unit)},
			{3, -limit.Shares, 1_000_000, fmt.Sprintf("-%d with 0, free 0", limit.Shares-rest-unit)},
		} {
			if got := moved(t, s, uint64(c.session), c.delta, c.level); got != c.want {
				t.Errorf("burst %d, step %d: %s, want %s", burst, i, got, c.want)
			}
		}
	}
}

// TestEmptySharesMakeNoRoom: what a lower limit has taken away does not come back with the shares
// of a session that is closed.
func TestEmptySharesMakeNoRoom(t *testing.T) {
	s := NewState()
	run(t, s, perSecond(9), &OpenSession{Term: 1, Node: "a", Identity: "i"}, &OpenSession{Term: 1, Node: "b", Identity: "i"})
	moved(t, s, 2, 333_333, 0) // of nine tokens, six stay
	run(t, s, perSecond(3), &CloseSessions{Term: 1, Sessions: []uint64{2}, Reason: CloseExpired})
	if got, want := moved(t, s, 3, limit.Shares, 0), "1000000 with 2000000, free 0"; got != want {
		t.Errorf("after the limit was lowered to a burst of 3: %s, want %s", got, want)
	}
}

// What closes without consent comes back empty, and what is taken over.
func TestSessionsThatEndLeaveEmptyShares(t *testing.T) {
	for name, end := range map[string]Command{
		"closed":     &CloseSessions{Term: 1, Sessions: []uint64{2}, Reason: CloseExpired},
		"taken over": &OpenSession{Term: 1, Node: "a", Identity: "i"},
	} {
		s := rated(t)
		moved(t, s, 2, 600_000, 0)
		r := run(t, s, end)
		if len(r.Freed) != 1 || r.Freed[0] != (Adjustment{Session: 2, Key: totalRequests, Delta: 600_000}) {
			t.Errorf("%s: freed %+v", name, r.Freed)
		}
		if got := moved(t, s, 3, limit.Shares, 0); got != "1000000 with 4000000, free 0" {
			t.Errorf("%s: %s", name, got)
		}
		moved(t, s, 3, -limit.Shares, 0)
		if got := moved(t, s, 3, 1, 0); got != "1 with 0, free 0" {
			t.Errorf("%s, and all given back empty: %s", name, got)
		}
	}
}

// No change of a limit adds anything: not a larger burst, not a deletion, a replacement, a restore,
// or a limit that comes and goes.
func TestNoChangeOfALimitFills(t *testing.T) {
	big, small := perSecond(1000), perSecond(2)
	connections := *perSecond(10)
	connections.Limit.Requests, connections.Limit.Connections = limit.Rate{}, 5
	remove := &DeleteLimit{Pattern: big.Limit.Pattern}
	for name, c := range map[string]struct {
		changes []Command
		want    string
	}{
		"raised":               {[]Command{big}, "200000 with 1000000, free 0"},
		"lowered":              {[]Command{small}, "200000 with 0, free 0"}, // less than a unit of it
		"lowered, then raised": {[]Command{small, big}, "200000 with 1000000, free 0"},
		"deleted":              {[]Command{remove, perSecond(10)}, "200000 with 1000000, free 0"},
		"not a rate meanwhile": {[]Command{&connections, big}, "200000 with 1000000, free 0"},
		"replaced": {[]Command{&ReplaceLimits{Source: limit.SourceAPI}, &ReplaceLimits{Source: limit.SourceAPI, Limits: []limit.Limit{big.Limit}}},
			"200000 with 1000000, free 0"},
		"restored":       {[]Command{remove, &RestoreLimits{Limits: []limit.Limit{big.Limit}}}, "200000 with 1000000, free 0"},
		"forgotten late": {[]Command{&Adjust{Term: 1, Batch: 9, Forget: []limit.Key{totalRequests}}}, "200000 with 1000000, free 0"},
	} {
		s := rated(t)
		moved(t, s, 2, limit.Shares, 0)
		moved(t, s, 2, -200_000, 1_000_000)
		run(t, s, c.changes...)
		if got := moved(t, s, 3, limit.Shares, 0); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// While no limit caps it, nothing that comes back counts, and what was free stays.
func TestLevelWithoutALimit(t *testing.T) {
	slots := perSecond(1)
	slots.Limit.Requests, slots.Limit.Connections = limit.Rate{}, 5
	for name, without := range map[string]Command{"none": &DeleteLimit{Pattern: slots.Limit.Pattern}, "one of connections": slots} {
		s := rated(t)
		moved(t, s, 2, 500_000, 0)
		run(t, s, without)
		if got := moved(t, s, 2, -500_000, 5_000_000); got != "-500000 with 0, free 5000000" {
			t.Errorf("%s: %s", name, got)
		}
		if got := moved(t, s, 2, 1, 0); got != "0 with 0, free 5000000" {
			t.Errorf("%s: %s", name, got)
		}
		if n := s.Capacity(totalRequests); n != limit.Unlimited {
			t.Errorf("%s: %d can be granted", name, n)
		}
		run(t, s, perSecond(10))
		if got := moved(t, s, 2, limit.Shares, 0); got != "1000000 with 5000000, free 0" {
			t.Errorf("%s: %s", name, got)
		}
		if n := s.Capacity(totalRequests); n != limit.Shares {
			t.Errorf("%s: %d can be granted", name, n)
		}
	}
}

// What is lowered makes no room for what the lower limit has taken away.
func TestReleaseUnderALowerLimit(t *testing.T) {
	s := rated(t)
	moved(t, s, 2, 500_000, 0)
	run(t, s, perSecond(2))
	if got := moved(t, s, 2, -500_000, 0); got != "-500000 with 0, free 1000000" {
		t.Error(got)
	}
}

// The largest burst under which a rate is held is kept, until it is forgotten: that of limits that
// nobody saw it under does not count.
func TestLargestBurst(t *testing.T) {
	s := rated(t)
	narrow := perSecond(700)
	remove := &DeleteLimit{Pattern: narrow.Limit.Pattern}
	for i, step := range []struct {
		do   func()
		want int64 // requests
	}{
		{func() {}, 0},
		{func() { moved(t, s, 2, 1000, 0) }, 10},
		{func() { run(t, s, perSecond(2)) }, 10},
		{func() { run(t, s, perSecond(50), perSecond(3)) }, 50},
		{func() { moved(t, s, 2, -1000, 0); run(t, s, perSecond(900), perSecond(3)) }, 50},
		{func() { moved(t, s, 3, limit.Shares, 0) }, 50},
		{func() { run(t, s, remove, narrow) }, 700},
		{func() { run(t, s, remove, perSecond(5)); moved(t, s, 3, -limit.Shares, 0) }, 700},
		{func() {
			run(t, s, &Adjust{Term: 1, Batch: s.Batch(1) + 1, Forget: []limit.Key{totalRequests}})
		}, 0},
		{func() { moved(t, s, 2, limit.Shares, 0) }, 5},
	} {
		step.do()
		if got := s.LargestBurst(totalRequests); got != step.want*limit.TokenGrains {
			t.Errorf("step %d: %d grains, want %d requests", i, got, step.want)
		}
	}
}

func TestForgetting(t *testing.T) {
	s := rated(t)
	kept := func() (n int) {
		s.Kept(func(limit.Key) bool { n++; return true })
		return n
	}
	forget := func(keys ...limit.Key) {
		run(t, s, &Adjust{Term: 1, Batch: s.Batch(1) + 1, Forget: keys})
	}
	moved(t, s, 2, limit.Shares, 0)
	forget(totalRequests)
	if s.Granted(totalRequests) != limit.Shares || kept() != 0 {
		t.Errorf("%d granted, %d kept", s.Granted(totalRequests), kept())
	}
	moved(t, s, 2, -limit.Shares, 0)
	if s.FreeLevel(totalRequests) != 0 || kept() != 1 {
		t.Errorf("level %d, %d kept", s.FreeLevel(totalRequests), kept())
	}
	forget(limit.HostConnections("a"), limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections}, totalRequests, totalRequests)
	if s.FreeLevel(totalRequests) != 10_000_000 || kept() != 0 {
		t.Errorf("forgotten: level %d, %d kept", s.FreeLevel(totalRequests), kept())
	}
	// In the entry that takes the last share back, it is forgotten after that.
	moved(t, s, 2, limit.Shares, 0)
	run(t, s, &Adjust{Term: 1, Batch: s.Batch(1) + 1, Adjustments: []Adjustment{{Session: 2, Key: totalRequests, Delta: -limit.Shares}}, Forget: []limit.Key{totalRequests}})
	if kept() != 0 || s.FreeLevel(totalRequests) != 10_000_000 {
		t.Errorf("forgotten at once: level %d, %d kept", s.FreeLevel(totalRequests), kept())
	}
}

// Connections have no level, whatever an entry says.
func TestConnectionsHaveNoLevel(t *testing.T) {
	s := NewState()
	key := limit.HostConnections("a")
	run(t, s, put("a", 5, limit.SourceAPI), &OpenSession{Term: 1, Node: "n", Identity: "i"})
	r := run(t, s, &Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{
		{Session: 2, Key: key, Delta: 3, Level: 9}, {Session: 2, Key: key, Delta: -3, Level: 9}, {Session: 2, Key: key, Level: 9},
	}})
	for _, a := range r.Adjusted {
		if a.Level != 0 || s.FreeLevel(key) != 0 {
			t.Errorf("%+v, free %d", a, s.FreeLevel(key))
		}
	}
	if n := s.Capacity(key); n != 5 {
		t.Errorf("%d can be granted", n)
	}
	run(t, s, &Adjust{Term: 1, Batch: 2, Adjustments: []Adjustment{{Session: 2, Key: key, Delta: -3}}})
	if len(s.grants) != 0 {
		t.Error("an entry without grants was kept")
	}
}

// A change of burst moves no grant.
func TestSharesStayWhenARateChanges(t *testing.T) {
	s := rated(t)
	moved(t, s, 2, 300_000, 0)
	moved(t, s, 3, 700_000, 0)
	for _, burst := range []int64{1, 10_000_000, 10} {
		run(t, s, perSecond(burst))
		if s.GrantOf(2, totalRequests) != 300_000 || s.GrantOf(3, totalRequests) != 700_000 {
			t.Errorf("burst %d: %v", burst, s.Grants(totalRequests))
		}
	}
}

func TestPart(t *testing.T) {
	const most = limit.MaxRequests * limit.TokenGrains
	for _, c := range []struct{ n, k, of, want int64 }{
		{0, 5, 10, 0}, {10, 0, 10, 0}, {10, 3, 10, 3}, {10, 1, 3, 3}, {most, limit.Shares, limit.Shares, most},
		{most, limit.Shares - 1, limit.Shares, most - most/limit.Shares}, {math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64}, {5, -1, 10, 0},
	} {
		if got := part(c.n, c.k, c.of); got != c.want {
			t.Errorf("%d·%d/%d = %d, want %d", c.n, c.k, c.of, got, c.want)
		}
	}
}

// The version is that of the content.
func TestVersionOf(t *testing.T) {
	host := put("a", 1, limit.SourceAPI).Limit
	for _, l := range append(newerLimits(), host) {
		want := uint32(3)
		if l == host {
			want = 1
		}
		for _, c := range []Command{
			&Init{Limits: []limit.Limit{host, l}}, &PutLimit{Limit: l}, &ReplaceLimits{Limits: []limit.Limit{host, l}},
			&RestoreLimits{Limits: []limit.Limit{host, l}},
		} {
			least := want
			if _, ok := c.(*RestoreLimits); ok {
				least = max(want, 2)
			}
			if v := VersionOf(c); v != least {
				t.Errorf("%#v needs %d, want %d", c, v, least)
			}
		}
		if v := VersionOf(&DeleteLimit{Pattern: l.Pattern}); v == 3 != (l.Pattern.Scope() != limit.ScopeHost) {
			t.Errorf("deleting %s needs %d", l.Name(), v)
		}
	}
	old := Adjustment{Session: 1, Key: limit.HostConnections("a"), Delta: -1}
	for _, a := range newerAdjustments() {
		if v := VersionOf(&Adjust{Adjustments: []Adjustment{old, a}}); v != 3 {
			t.Errorf("%+v needs %d", a, v)
		}
	}
	for want, list := range map[uint32][]Command{
		1: {&Adjust{Adjustments: []Adjustment{old}}, &OpenSession{}, &CloseSessions{}, &Init{}, &ReplaceLimits{}},
		2: {&RestoreLimits{}},
		3: {&Adjust{Forget: []limit.Key{limit.HostConnections("a")}}},
	} {
		for _, c := range list {
			if v := VersionOf(c); v != want {
				t.Errorf("%#v needs %d, want %d", c, v, want)
			}
		}
	}
}

// What a covered limit of the config needs, the state needs too.
func TestLogVersionOfAState(t *testing.T) {
	s := NewState()
	want := func(version uint32) {
		t.Helper()
		if v := s.LogVersion(); v != version {
			t.Errorf("the state needs %d, want %d", v, version)
		}
	}
	want(1)
	config := put("a", 1, limit.SourceConfig)
	run(t, s, put("b", 1, limit.SourceAPI), config)
	want(1)
	config.Limit.Report = true
	run(t, s, config, put("a", 2, limit.SourceAPI))
	want(3)
	run(t, s, &ReplaceLimits{Source: limit.SourceConfig})
	want(1)
}
