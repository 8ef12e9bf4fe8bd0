package fsm

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// run applies commands from the state's index on, in term 1, and fails on an error.
func run(t testing.TB, s *State, commands ...Command) Result {
	t.Helper()
	var r Result
	for _, c := range commands {
		if r = s.Apply(s.Index()+1, 1, c); r.Err != nil {
			t.Fatalf("%#v: %v", c, r.Err)
		}
	}
	return r
}

func put(p string, n int64, source limit.Source) *PutLimit {
	return &PutLimit{Limit: limit.Limit{Pattern: pattern(p), Connections: n, Source: source}}
}

func TestInvalidCommandsChangeNothing(t *testing.T) {
	bad := limit.Limit{Pattern: pattern("a"), Connections: -2, Source: limit.SourceAPI}
	good := rule("a", 1)
	for name, c := range map[string]Command{
		"init without id":    &Init{TTL: 1},
		"init without ttl":   &Init{ClusterID: "x"},
		"init, bad limit":    &Init{ClusterID: "x", TTL: 1, Limits: []limit.Limit{bad}},
		"session, no node":   &OpenSession{Term: 1, Identity: "i"},
		"session, no id":     &OpenSession{Term: 1, Node: "n"},
		"put, bad limit":     &PutLimit{Limit: bad},
		"put, no source":     &PutLimit{Limit: limit.Limit{Pattern: pattern("a")}},
		"put, no pattern":    &PutLimit{Limit: limit.Limit{Source: limit.SourceAPI}},
		"replace, no source": &ReplaceLimits{},
		"replace, bad":       &ReplaceLimits{Source: limit.SourceAPI, Limits: []limit.Limit{good, bad}},
		"replace, twice":     &ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{good, good}},
		"no command":         nil,
	} {
		s := NewState()
		r := s.Apply(1, 1, c)
		if !errors.Is(r.Err, limit.ErrInvalid) || r.Changed || s.Index() != 1 || s.ClusterID() != "" || len(s.Sessions())+len(s.Table().Limits()) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExtremeAdjustments(t *testing.T) {
	s := NewState()
	key := limit.HostConnections("a")
	run(t, s, put("a", 5, limit.SourceAPI), &OpenSession{1, "n", "i"})
	r := run(t, s, &Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{{Session: 2, Key: key, Delta: math.MaxInt64}, {Session: 2, Key: key, Delta: math.MinInt64}, {Session: 2, Key: key, Delta: math.MaxInt64}}})
	if fmt.Sprint(r.Adjusted[0].Delta, r.Adjusted[1].Delta, r.Adjusted[2].Delta) != "5 0 0" {
		t.Errorf("%v", r.Adjusted)
	}
	r = run(t, s, &Adjust{Term: 1, Batch: 2, Adjustments: []Adjustment{{Session: 2, Key: key, Delta: 1}, {Session: 2, Key: key, Delta: math.MinInt64}}})
	if fmt.Sprint(r.Adjusted[0].Delta, r.Adjusted[1].Delta, s.Granted(key)) != "1 -5 1" {
		t.Errorf("decreases go first: %v, %d granted", r.Adjusted, s.Granted(key))
	}
	if r := s.Apply(99, 1, &Adjust{Term: 1, Batch: math.MaxUint64, Adjustments: nil}); r.Err != nil {
		t.Error(r.Err)
	}
	if r := s.Apply(100, 1, &Adjust{Term: 1, Batch: 0, Adjustments: nil}); !errors.Is(r.Err, ErrRepeated) {
		t.Error(r.Err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// A log's terms never fall; should one, what was judged before is void.
func TestAdjustOfAFormerTermIsVoid(t *testing.T) {
	s := NewState()
	run(t, s, put("a", 5, limit.SourceAPI))
	if r := s.Apply(2, 2, &Adjust{Term: 2, Batch: 1, Adjustments: nil}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if r := s.Apply(3, 1, &Adjust{Term: 1, Batch: 9, Adjustments: nil}); !errors.Is(r.Err, ErrStaleTerm) {
		t.Error(r.Err)
	}
}

func TestLoweredLimitGivesNothingUntilBelow(t *testing.T) {
	s := NewState()
	key := limit.HostConnections("a")
	run(t, s, put("a", 5, limit.SourceAPI), &OpenSession{1, "n", "i"}, &OpenSession{1, "m", "i"},
		&Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{{Session: 2, Key: key, Delta: 3}, {Session: 3, Key: key, Delta: 2}}}, put("a", 3, limit.SourceAPI))
	for i, c := range []struct{ down, up, got int64 }{{0, 1, 0}, {-1, 1, 0}, {-1, 1, 0}, {-1, 1, 1}, {0, 9, 0}} {
		r := run(t, s, &Adjust{Term: 1, Batch: uint64(i + 2), Adjustments: []Adjustment{{Session: 3, Key: key, Delta: c.up}, {Session: 2, Key: key, Delta: c.down}}})
		if r.Adjusted[0].Delta != c.got {
			t.Errorf("step %d: %v of %d", i, r.Adjusted, s.Granted(key))
		}
	}
}

func TestEvictionCanBeAskedForAgain(t *testing.T) {
	s := NewState()
	evict := put("a", 2, limit.SourceAPI)
	evict.Limit.Evict = true
	at := func() (uint64, bool) {
		l, _ := s.Table().Get(pattern("a"))
		return l.ModifyIndex, l.Evict
	}
	for i, c := range []struct {
		c     *PutLimit
		index uint64
		evict bool
	}{
		{put("a", 2, limit.SourceAPI), 1, false},
		{evict, 2, true},
		{evict, 3, true},
		{put("a", 2, limit.SourceAPI), 3, true}, // identical: nothing changes, nor is the eviction taken back
		{put("a", 3, limit.SourceAPI), 5, false},
	} {
		run(t, s, c.c)
		if index, evict := at(); index != c.index || evict != c.evict {
			t.Errorf("write %d: index %d, evict %v", i+1, index, evict)
		}
	}
}

func TestUncoveredLimitHasANewETag(t *testing.T) {
	s := NewState()
	evict := put("a", 1, limit.SourceConfig)
	evict.Limit.Evict = true
	run(t, s, evict, put("a", 2, limit.SourceAPI), &DeleteLimit{Pattern: pattern("a")})
	if l, ok := s.Table().Get(pattern("a")); !ok || l.Source != limit.SourceConfig || l.Connections != 1 || l.ModifyIndex != 3 || l.Evict {
		t.Errorf("%+v, %v", l, ok)
	}
	run(t, s, &DeleteLimit{Pattern: pattern("a")})
	if r := s.Apply(5, 1, &DeleteLimit{Pattern: pattern("a")}); r.Err != ErrNotFound {
		t.Errorf("deleted twice: %v", r.Err)
	}
}

func TestConfigLimitsListsWhatIsCoveredToo(t *testing.T) {
	s := NewState()
	run(t, s, put("b", 1, limit.SourceConfig), put("a", 2, limit.SourceConfig), put("b", 3, limit.SourceAPI), put("c", 4, limit.SourceAPI))
	var got []string
	for _, l := range s.ConfigLimits() {
		got = append(got, fmt.Sprint(l.Pattern, l.Connections, l.Source))
	}
	if strings.Join(got, " ") != "a 2 config b 1 config" {
		t.Errorf("%q", got)
	}
}

func TestPreconditionErrorsSayWhich(t *testing.T) {
	index := uint64(1)
	wrong := uint64(9)
	s := NewState()
	run(t, s, put("a", 1, limit.SourceAPI))
	for i, c := range []struct {
		p    Precondition
		on   string
		want []error
	}{
		{Precondition{MustExist: true}, "b", []error{ErrPrecondition, ErrNotFound}},
		{Precondition{MatchIndex: &index}, "b", []error{ErrPrecondition, ErrNotFound}},
		{Precondition{MustNotExist: true}, "a", []error{ErrPrecondition, ErrExists}},
		{Precondition{MatchIndex: &wrong}, "a", []error{ErrPrecondition}},
	} {
		l := put(c.on, 2, limit.SourceAPI).Limit
		for _, r := range []Result{
			s.Apply(s.Index()+1, 1, &PutLimit{Limit: l, Precondition: c.p}),
			s.Apply(s.Index()+2, 1, &DeleteLimit{Pattern: l.Pattern, Precondition: c.p}),
		} {
			for _, want := range c.want {
				if !errors.Is(r.Err, want) || r.Changed {
					t.Errorf("%d: %v, want %v", i, r.Err, want)
				}
			}
		}
	}
	run(t, s, &PutLimit{Limit: put("a", 2, limit.SourceAPI).Limit, Precondition: Precondition{MatchIndex: &index, MustExist: true}})
}

// TestCheckFindsEachBreach breaks a good state in every way that Check is there for.
func TestCheckFindsEachBreach(t *testing.T) {
	key := limit.HostConnections("api.example.com")
	set := func(f func(h *holding)) func(*State) {
		return func(s *State) { f(s.grants[key]) }
	}
	rated := func(f func(h *holding)) func(*State) {
		return func(s *State) {
			h := &holding{total: limit.Shares / 2, slots: []SessionSlots{{Session: 2, Slots: limit.Shares / 2}}}
			s.grants[limit.Key{Scope: limit.ScopeTotal, Resource: limit.Requests}] = h
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			f(h)
		}
	}
	move := func(from, to limit.Key) func(*State) {
		return func(s *State) { s.grants[to] = s.grants[from]; delete(s.grants, from) }
	}
	relimit := func(f func(*limit.Limit)) func(*State) {
		return func(s *State) {
			l := *s.layers.api[pattern("api.example.com")]
			f(&l)
			s.layers.api[pattern("api.example.com")] = &l
			s.table = limit.NewTable(s.table.Index, s.table.ShapeIndex, s.layers.all())
		}
	}
	for name, c := range map[string]struct {
		breakIt func(*State)
		want    string
	}{
		"total":              {set(func(h *holding) { h.total++ }), "add up to"},
		"slots":              {set(func(h *holding) { h.slots[0].Slots-- }), "add up to"},
		"negative":           {set(func(h *holding) { h.slots[0].Slots = -1 }), "holds -1"},
		"zero":               {set(func(h *holding) { h.slots[0].Slots = 0 }), "holds 0"},
		"order":              {set(func(h *holding) { h.slots[0], h.slots[1] = h.slots[1], h.slots[0] }), "stands behind"},
		"twice":              {set(func(h *holding) { h.slots[1] = h.slots[0] }), "stands behind"},
		"empty":              {set(func(h *holding) { *h = holding{} }), "without grants"},
		"too many":           {set(func(h *holding) { h.slots[0].Slots = limit.MaxConnections; h.total = limit.MaxConnections + 1 }), "more than any limit"},
		"level of slots":     {set(func(h *holding) { h.level = 1 }), "of what has none"},
		"level below 0":      {rated(func(h *holding) { h.level = -1 }), "a level of -1 grains"},
		"level of too much":  {rated(func(h *holding) { h.level = limit.MaxRequests*limit.TokenGrains/2 + 1 }), "in 500000 free shares"},
		"level of nothing":   {rated(func(h *holding) { h.slots[0].Slots, h.total, h.level = limit.Shares, limit.Shares, 1 }), "in 0 free shares"},
		"burst of slots":     {set(func(h *holding) { h.burst = 1 }), "a burst of 1 grains, of what has none"},
		"burst below 0":      {rated(func(h *holding) { h.burst = -1 }), "a burst of -1 grains"},
		"burst of too much":  {rated(func(h *holding) { h.burst = limit.MaxRequests*limit.TokenGrains + 1 }), "more than any limit"},
		"too many shares":    {rated(func(h *holding) { h.slots[0].Slots, h.total = limit.Shares+1, limit.Shares+1 }), "holds 1000001"},
		"closed session":     {func(s *State) { delete(s.sessions, 2); delete(s.names, "a") }, "not open"},
		"key's name":         {move(key, limit.HostConnections("API.example.com")), "not canonical"},
		"key's scope":        {move(key, limit.Key{Scope: 9, Resource: 1, Name: "api.example.com"}), "not canonical"},
		"key's resource":     {move(key, limit.Key{Scope: 1, Resource: 9, Name: "api.example.com"}), "not canonical"},
		"session's id":       {func(s *State) { s.sessions[2] = s.sessions[3] }, "stands under"},
		"session's index":    {func(s *State) { s.sessions[99] = Session{99, "z", "i"}; s.names["z"] = 99 }, "at index 12"},
		"session's node":     {func(s *State) { s.sessions[2] = Session{ID: 2, Identity: "i"} }, "no node"},
		"name without":       {func(s *State) { delete(s.names, "a") }, "not the node's"},
		"name of another":    {func(s *State) { s.names["a"] = 3 }, "not the node's"},
		"stale name":         {func(s *State) { s.names["z"] = 3 }, "3 nodes have 2"},
		"no ttl":             {func(s *State) { s.ttl = 0 }, "set together"},
		"no cluster":         {func(s *State) { s.clusterID = "" }, "set together"},
		"negative ttl":       {func(s *State) { s.ttl = -1 }, "the ttl is"},
		"batch":              {func(s *State) { s.batch = 0 }, "batch 0"},
		"limit's value":      {relimit(func(l *limit.Limit) { l.Connections = -9 }), "connections is -9"},
		"limit's layer":      {relimit(func(l *limit.Limit) { l.Source = limit.SourceConfig }), "in the layer api"},
		"limit's pattern":    {relimit(func(l *limit.Limit) { l.Pattern = pattern("other") }), "stands under"},
		"limit's index":      {relimit(func(l *limit.Limit) { l.ModifyIndex = 10 }), "modified at 10"},
		"limit's no index":   {relimit(func(l *limit.Limit) { l.ModifyIndex = 0 }), "modified at 0"},
		"table's index":      {func(s *State) { s.table = limit.NewTable(99, 1, s.layers.all()) }, "the table of 99"},
		"table's shape":      {func(s *State) { s.table = limit.NewTable(9, 10, s.layers.all()) }, "shape is of 10"},
		"table's limits":     {func(s *State) { s.table = limit.NewTable(9, 1, s.layers.all()[1:]) }, "not that of the limits"},
		"layer behind table": {func(s *State) { delete(s.layers.config, pattern("*")) }, "not that of the limits"},
	} {
		_, s := sampleLog()
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		c.breakIt(s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// busyState has grants of n keys, each held by three sessions.
func busyState(t testing.TB, n int) (*State, []limit.Key) {
	s := NewState()
	run(t, s, put("*", 100, limit.SourceAPI), &OpenSession{1, "a", "i"}, &OpenSession{1, "b", "i"}, &OpenSession{1, "c", "i"})
	keys := make([]limit.Key, n)
	var batch uint64
	for i := range keys {
		keys[i] = limit.HostConnections(fmt.Sprintf("host-%06d.api.example.com", i))
		batch++
		run(t, s, &Adjust{Term: 1, Batch: batch, Adjustments: []Adjustment{{Session: 2, Key: keys[i], Delta: 3}, {Session: 3, Key: keys[i], Delta: 1}, {Session: 4, Key: keys[i], Delta: 2}}})
	}
	return s, keys
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMemoryPerHostWithGrants(t *testing.T) {
	const n = 20_000
	before := heapInUse()
	s, keys := busyState(t, n)
	clear(keys) // the names that are left are the state's
	per := float64(heapInUse()-before-uint64(len(keys))*24) / n
	runtime.KeepAlive(s)
	runtime.KeepAlive(keys)
	t.Logf("%.0f bytes per host with grants of three sessions", per)
	if per > 300 {
		t.Errorf("a host with grants takes %.0f bytes, want at most 300", per)
	}
}

func BenchmarkAdjust(b *testing.B) {
	s, keys := busyState(b, 100_000)
	c := &Adjust{Term: 1, Batch: s.batch, Adjustments: make([]Adjustment, 64)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for j := range c.Adjustments {
			delta := int64(1)
			if i%2 == 1 {
				delta = -1
			}
			c.Adjustments[j] = Adjustment{Session: 2, Key: keys[(i/2*64+j)*7919%len(keys)], Delta: delta}
		}
		c.Batch++
		if r := s.Apply(s.Index()+1, 1, c); r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/adjustment")
}

func BenchmarkSessionGrants(b *testing.B) {
	s, _ := busyState(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		s.SessionGrants(2)
	}
}

func BenchmarkSnapshotTake(b *testing.B) {
	s, _ := busyState(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		s.image()
	}
}

func BenchmarkPutLimit(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, _ := limittest.Many(n)
			s := NewState()
			run(b, s, &Init{"c", time.Second, table.Limits()})
			b.ReportAllocs()
			i := int64(0)
			for b.Loop() {
				i++
				run(b, s, put("host5.example.com", i%2, limit.SourceAPI))
			}
		})
	}
}
