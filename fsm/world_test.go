package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// world drives two states and the model with the same commands.
type world struct {
	t           *rapid.T
	a, b        *State
	m           *model
	index, term uint64
	batch       uint64
	// A few patterns and targets for each run, so that commands meet each other's.
	patterns []limit.Pattern
	subjects []limit.Subject
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, a: NewState(), b: NewState(), m: newModel(), term: 1}
	w.patterns = rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.AllPatterns()), 1, 8, rapid.ID[limit.Pattern]).Draw(t, "patterns")
	w.subjects = rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.Subjects()), 2, 7, rapid.ID[limit.Subject]).Draw(t, "subjects")
	if rapid.IntRange(0, 3).Draw(t, "begun") > 0 {
		// Something to hold, and somebody to hold it.
		total := limit.Limit{
			Pattern: limittest.Scoped(limit.ScopeTotal, ""), Connections: 4,
			Requests: limit.Rate{Thousandths: 1000, Per: time.Minute, Burst: 3}, Bandwidth: limit.Bandwidth{Upload: 1e6},
		}
		w.do(&Init{ClusterID: "c", TTL: time.Second, Limits: []limit.Limit{{Pattern: pattern("*"), Connections: 4}, total}})
		for _, node := range []string{"n1", "n2"} {
			w.do(&OpenSession{w.term, node, "i"})
		}
	}
	return w
}

func (w *world) do(c Command) {
	// Indexes have holes: other entries of raft's lie between ours.
	w.index += rapid.Uint64Range(1, 3).Draw(w.t, "index step")
	entry := Encode(c)
	decoded, err := Decode(entry)
	if err != nil {
		w.t.Fatalf("%#v: %v", c, err)
	}
	before := w.a.Table()
	beforeLimits := slices.Clone(before.Limits())
	late := w.restored() // a server that starts from a snapshot taken just before
	want, got, twin := w.m.apply(w.index, w.term, c), w.a.Apply(w.index, w.term, c), w.b.Apply(w.index, w.term, decoded)
	if !bytes.Equal(Encode(c), entry) {
		w.t.Fatalf("applying %#v has changed it", decoded)
	}
	if !errors.Is(got.Err, want.Err) || (got.Err == nil) != (want.Err == nil) {
		w.t.Fatalf("%#v: error %v, want %v", c, got.Err, want.Err)
	}
	if fmt.Sprint(got) != fmt.Sprint(twin) {
		w.t.Fatalf("%#v: results differ: %v and %v", c, got, twin)
	}
	if r := late.Apply(w.index, w.term, decoded); fmt.Sprint(r) != fmt.Sprint(got) || !bytes.Equal(snapshotOf(w.t, late), snapshotOf(w.t, w.a)) {
		w.t.Fatalf("%#v: after a restore it answers %v, not %v, or leaves another state", c, r, got)
	}
	got.Err, want.Err = nil, nil
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		w.t.Fatalf("%#v: result (-want +got):\n%s", c, diff)
	}
	if !slices.Equal(beforeLimits, before.Limits()) {
		w.t.Fatalf("%#v changed a table that was given out", c)
	}
	if again := w.a.Apply(w.index, w.term, c); !errors.Is(again.Err, ErrRepeated) || again.Changed {
		w.t.Fatalf("%#v applied twice: %v", c, again)
	}
}

// restored is the state as a snapshot brings it back.
func (w *world) restored() *State {
	s, err := ReadSnapshot(bytes.NewReader(snapshotOf(w.t, w.a)))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// check compares everything that can be read.
func (w *world) check(t *rapid.T) {
	if err := w.a.Check(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotOf(t, w.a), snapshotOf(t, w.b)) {
		t.Fatal("two states that were fed the same differ")
	}
	m, s := w.m, w.a
	if s.Index() != m.index || s.ClusterID() != m.clusterID || s.TTL() != m.ttl {
		t.Fatalf("settings: %d %q %v", s.Index(), s.ClusterID(), s.TTL())
	}
	held := w.checkGrants(t)
	var sessions []Session
	for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
		sessions = append(sessions, m.sessions[id])
		if one, ok := s.Session(id); !ok || one != m.sessions[id] {
			t.Fatalf("session %d: %v, %v", id, one, ok)
		}
		if got := s.SessionGrants(id); !slices.Equal(got, held[id]) {
			t.Fatalf("session %d holds %v, want %v", id, got, held[id])
		}
	}
	if !slices.Equal(s.Sessions(), sessions) {
		t.Fatalf("sessions %v, want %v", s.Sessions(), sessions)
	}
	w.checkTable(t)
}

// checkGrants compares the grants and the levels, and returns what each session holds.
func (w *world) checkGrants(t *rapid.T) map[uint64][]Adjustment {
	m, s := w.m, w.a
	var keys, kept []limit.Key
	s.Keys(func(k limit.Key, n int64) bool {
		keys = append(keys, k)
		if n != m.granted(k) || n != s.Granted(k) {
			t.Fatalf("%v: %d granted, want %d", k, n, m.granted(k))
		}
		return true
	})
	s.Kept(func(k limit.Key) bool { kept = append(kept, k); return true })
	held := map[uint64][]Adjustment{}
	for _, key := range slices.SortedFunc(maps.Keys(m.grants), limit.Key.Compare) {
		want := m.grants[key]
		maps.DeleteFunc(want, func(_ uint64, n int64) bool { return n == 0 })
		got := map[uint64]int64{}
		for _, g := range s.Grants(key) {
			got[g.Session] = s.GrantOf(g.Session, key)
			held[g.Session] = append(held[g.Session], Adjustment{Session: g.Session, Key: key, Delta: g.Slots})
		}
		if !maps.Equal(got, want) || slices.Contains(keys, key) != (len(want) > 0) {
			t.Fatalf("%v: granted %v, want %v", key, got, want)
		}
	}
	var idle []limit.Key
	for _, key := range slices.SortedFunc(maps.Keys(m.levels), limit.Key.Compare) {
		if m.granted(key) == 0 {
			idle = append(idle, key)
		}
		if got, want := s.FreeLevel(key), m.freeLevel(key); got != want {
			t.Fatalf("%v: %d grains are free, want %d", key, got, want)
		}
		if got, want := s.LargestBurst(key), m.bursts[key]; got != want {
			t.Fatalf("%v: the largest burst is %d grains, want %d", key, got, want)
		}
	}
	if !slices.Equal(kept, idle) {
		t.Fatalf("kept for their level: %v, want %v", kept, idle)
	}
	return held
}

func (w *world) checkTable(t *rapid.T) {
	table := w.a.Table()
	if table.Index != w.m.tableIndex || table.ShapeIndex != w.m.shapeIndex {
		t.Fatalf("table of %d, shape of %d, want %d and %d", table.Index, table.ShapeIndex, w.m.tableIndex, w.m.shapeIndex)
	}
	var want []limit.Limit
	for _, p := range slices.SortedFunc(maps.Keys(w.m.effective), limit.Pattern.Compare) {
		want = append(want, w.m.effective[p])
	}
	if !slices.Equal(table.Limits(), want) {
		t.Fatalf("limits\n%+v, want\n%+v", table.Limits(), want)
	}
	var config []limit.Pattern
	for _, l := range w.a.ConfigLimits() {
		config = append(config, l.Pattern)
		if below := w.m.config[l.Pattern]; valueOf(l, l.Source) != below || l.Source != limit.SourceConfig {
			t.Fatalf("the config's limit is %+v, want %+v", l, below)
		}
	}
	if !slices.Equal(config, slices.SortedFunc(maps.Keys(w.m.config), limit.Pattern.Compare)) {
		t.Fatalf("the config has limits on %v, want %v", config, w.m.config)
	}
	fresh := limit.NewTable(table.Index, table.ShapeIndex, want)
	for _, s := range w.subjects {
		for _, scope := range limit.Scopes {
			got, name := table.Find(scope, &s)
			l, freshName := fresh.Find(scope, &s)
			if name != freshName || (got == nil) != (l == nil) || got != nil && *got != *l {
				t.Fatalf("%+v is in scope %v under %v, and in a table of its own under %v", s, scope, got, l)
			}
		}
	}
	need := uint32(1)
	for _, l := range slices.Concat(want, w.a.ConfigLimits()) {
		need = max(need, VersionOf(&PutLimit{Limit: l}))
	}
	for key := range w.m.levels {
		need = max(need, VersionOf(&Adjust{Forget: []limit.Key{key}}))
	}
	if got := w.a.LogVersion(); got < need || got > 3 {
		t.Fatalf("the state needs log version %d, not %d", need, got)
	}
}

func snapshotOf(t interface{ Fatal(...any) }, s *State) []byte {
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (w *world) drawLimit(t *rapid.T) limit.Limit {
	l := limit.Limit{
		Pattern:     rapid.SampledFrom(w.patterns).Draw(t, "pattern"),
		Connections: limit.Unlimited,
		Evict:       rapid.IntRange(0, 3).Draw(t, "evict") == 0,
		Report:      rapid.IntRange(0, 7).Draw(t, "report") == 0,
		Source:      rapid.SampledFrom([]limit.Source{limit.SourceAPI, limit.SourceConfig}).Draw(t, "source"),
	}
	l.Shared = l.Pattern.Wildcard() && rapid.Bool().Draw(t, "shared")
	if rapid.Bool().Draw(t, "bandwidth") {
		l.Bandwidth = limit.Bandwidth{
			Upload:   rapid.SampledFrom([]int64{1, 3000, 1e12}).Draw(t, "upload"),
			Download: rapid.SampledFrom([]int64{0, 100_003}).Draw(t, "download"),
			Burst:    rapid.SampledFrom([]int64{0, 4096, 99_999, 1e12}).Draw(t, "bytes at once"),
		}
	}
	if l.Pattern.Scope() == limit.ScopeConnection {
		return l
	}
	l.Connections = rapid.Int64Range(-1, 6).Draw(t, "connections")
	if rapid.Bool().Draw(t, "requests") {
		l.Requests = limit.Rate{
			Thousandths: rapid.SampledFrom([]int64{1, 500, 2_000_000}).Draw(t, "rate"),
			Per:         rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(t, "per"),
			Burst:       rapid.SampledFrom([]int64{1, 2, 7, 1000, 10_000_000}).Draw(t, "burst"),
		}
	}
	if (l.Connections >= 0 || l.Requests != (limit.Rate{})) && rapid.IntRange(0, 3).Draw(t, "queue") == 0 {
		l.Queue = limit.Queue{Timeout: time.Second, Size: 5}
	}
	return l
}

func (w *world) drawLimitSet(t *rapid.T) []limit.Limit {
	return rapid.SliceOfNDistinct(rapid.Custom(w.drawLimit), 0, len(w.patterns), func(l limit.Limit) limit.Pattern { return l.Pattern }).Draw(t, "limits")
}

func (w *world) drawPrecondition(t *rapid.T, index uint64) Precondition {
	switch rapid.IntRange(0, 9).Draw(t, "precondition") {
	case 0:
		return Precondition{MatchIndex: &index}
	case 1:
		other := rapid.Uint64Range(0, 20).Draw(t, "match index")
		return Precondition{MatchIndex: &other}
	case 2:
		return Precondition{MustExist: true}
	case 3:
		return Precondition{MustNotExist: true}
	}
	return Precondition{}
}

// drawTerm is the present one, mostly: no other is good, be it past or to come.
func (w *world) drawTerm(t *rapid.T) uint64 {
	return w.term - 1 + rapid.SampledFrom([]uint64{1, 1, 1, 1, 1, 1, 1, 0, 2}).Draw(t, "term")
}

func (w *world) drawSession(t *rapid.T) uint64 {
	ids := []uint64{0, w.index, 1 << 40}
	for _, s := range w.a.Sessions() {
		ids = append(ids, s.ID, s.ID, s.ID)
	}
	return rapid.SampledFrom(ids).Draw(t, "session")
}

func (w *world) drawKey(t *rapid.T) limit.Key {
	key := limit.Key{
		Scope:    rapid.SampledFrom([]limit.Scope{limit.ScopeHost, limit.ScopeHost, limit.ScopeClient, limit.ScopeUser, limit.ScopeTotal, limit.ScopeKey}).Draw(t, "scope"),
		Resource: rapid.SampledFrom([]limit.Resource{limit.Connections, limit.Requests, limit.Requests, limit.Upload, limit.Download}).Draw(t, "resource"),
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind of key") {
	case 0:
		p := rapid.SampledFrom(w.patterns).Draw(t, "key")
		key.Name = p.String()
		if p.Scope() != limit.ScopeConnection {
			key.Scope = p.Scope()
		}
	case 1:
		key.Scope, key.Name = limit.ScopeHost, rapid.SampledFrom(limittest.Targets()).Draw(t, "key").String()
	case 2:
		key.Name = "A..wrong\n"
	default:
		s := rapid.SampledFrom(w.subjects).Draw(t, "key")
		_, key.Name = w.a.Table().Find(key.Scope, &s)
	}
	return key
}

// drawDelta is of the size that the key's grants have.
func drawDelta(t *rapid.T, r limit.Resource) int64 {
	if !r.IsRate() {
		return rapid.Int64Range(-5, 7).Draw(t, "delta")
	}
	return rapid.OneOf(
		rapid.SampledFrom([]int64{limit.Shares, -limit.Shares, limit.Shares / 3, limit.Shares / 1000, -limit.Shares / 7, 1, -1, 0, math.MaxInt64, math.MinInt64}),
		rapid.Int64Range(-limit.Shares, limit.Shares),
	).Draw(t, "delta")
}

func (w *world) drawAdjustments(t *rapid.T) []Adjustment {
	var list []Adjustment
	for range rapid.IntRange(0, 6).Draw(t, "adjustments") {
		key := w.drawKey(t)
		a := Adjustment{Session: w.drawSession(t), Key: key, Delta: drawDelta(t, key.Resource)}
		if rapid.Bool().Draw(t, "with a level") {
			a.Level = rapid.OneOf(rapid.Int64Range(0, 4_000_000), rapid.SampledFrom([]int64{-1, 1, math.MaxInt64, math.MinInt64})).Draw(t, "level")
		}
		list = append(list, a)
	}
	return list
}

// drawForgotten are keys, most of them such as can be forgotten.
func (w *world) drawForgotten(t *rapid.T) []limit.Key {
	if rapid.IntRange(0, 4).Draw(t, "forgetting") > 0 {
		return nil
	}
	known := slices.SortedFunc(maps.Keys(w.m.levels), limit.Key.Compare)
	if len(known) == 0 || rapid.IntRange(0, 3).Draw(t, "any key") == 0 {
		return []limit.Key{w.drawKey(t)}
	}
	return rapid.SliceOfN(rapid.SampledFrom(known), 1, 3).Draw(t, "forgotten")
}

func TestStateAgainstTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"":      w.check,
			"init":  func(t *rapid.T) { w.do(&Init{ClusterID: "c", TTL: time.Second, Limits: w.drawLimitSet(t)}) },
			"term":  func(*rapid.T) { w.term++; w.batch = 0 },
			"open":  w.open,
			"open2": w.open,
			"close": func(t *rapid.T) {
				w.do(&CloseSessions{w.drawTerm(t), []uint64{w.drawSession(t), w.drawSession(t)}, CloseExpired})
			},
			"adjust":  w.adjust,
			"adjust2": w.adjust,
			"adjust3": w.adjust,
			"put":     w.put,
			"put2":    w.put,
			"delete": func(t *rapid.T) {
				p := rapid.SampledFrom(w.patterns).Draw(t, "pattern")
				w.do(&DeleteLimit{p, w.drawPrecondition(t, w.m.effective[p].ModifyIndex)})
			},
			"replace": w.replace,
			"restore": w.restoreLimits,
			"restart": func(*rapid.T) { w.a = w.restored() },
		})
	})
}

func (w *world) open(t *rapid.T) {
	w.do(&OpenSession{w.drawTerm(t), rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node"), rapid.SampledFrom([]string{"i", "i", "i", "j"}).Draw(t, "identity")})
}

func (w *world) adjust(t *rapid.T) {
	batch := w.batch + rapid.Uint64Range(0, 2).Draw(t, "batch step")
	c := &Adjust{Term: w.drawTerm(t), Batch: batch, Adjustments: w.drawAdjustments(t), Forget: w.drawForgotten(t)}
	if c.Term == w.term {
		w.batch = max(w.batch, batch)
	}
	w.do(c)
}

func (w *world) put(t *rapid.T) {
	l := w.drawLimit(t)
	if old, ok := w.m.effective[l.Pattern]; ok && old.Connections >= 0 && rapid.Bool().Draw(t, "like the one there") {
		drawn := l
		l = valueOf(old, drawn.Source)
		switch rapid.IntRange(0, 4).Draw(t, "but for") {
		case 0:
			l.Queue = limit.Queue{Timeout: time.Minute, Size: 5}
		case 1:
			l.Shared = drawn.Shared
		case 2:
			l.Connections = max(0, l.Connections-2)
		case 3:
			l.Bandwidth, l.Report = drawn.Bandwidth, drawn.Report
		}
	}
	w.do(&PutLimit{l, w.drawPrecondition(t, w.m.effective[l.Pattern].ModifyIndex)})
}

func (w *world) replace(t *rapid.T) {
	limits := w.drawLimitSet(t)
	if rapid.Bool().Draw(t, "of what there is") {
		// What GET answers, PUT accepts: with its sources, and perhaps one change.
		limits = slices.Clone(w.a.Table().Limits())
		for i := range limits {
			limits[i].Evict = false
		}
		if len(limits) > 0 && rapid.Bool().Draw(t, "changed") {
			if limits[0].Report = !limits[0].Report; limits[0].Pattern.Scope() != limit.ScopeConnection {
				limits[0].Connections = 3
			}
		}
	}
	source := rapid.SampledFrom([]limit.Source{limit.SourceAPI, limit.SourceConfig}).Draw(t, "source")
	w.do(&ReplaceLimits{source, limits, w.drawPrecondition(t, w.m.tableIndex)})
}

// restoreLimits writes both layers: of what there is, or anything.
func (w *world) restoreLimits(t *rapid.T) {
	limits := rapid.SliceOfNDistinct(rapid.Custom(w.drawLimit), 0, len(w.patterns)+2, func(l limit.Limit) string {
		return l.Source.String() + " " + l.Name()
	}).Draw(t, "limits")
	if rapid.Bool().Draw(t, "of what there was") {
		s, err := ReadSummary(bytes.NewReader(snapshotOf(t, w.a)))
		if err != nil {
			t.Fatal(err)
		}
		limits = s.Limits[rapid.IntRange(0, len(s.Limits)).Draw(t, "from"):]
	}
	w.do(&RestoreLimits{limits, w.drawPrecondition(t, w.m.tableIndex)})
}
