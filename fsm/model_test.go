package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// model is the state again, as naively as it can be written: it looks for what
// governs a key by trying every target, and finds what changed by comparing whole
// copies of before and after.
type model struct {
	index, batchTerm, batch uint64
	clusterID               string
	ttl                     time.Duration
	api, config             map[string]limit.Limit
	effective               map[string]limit.Limit
	tableIndex, shapeIndex  uint64
	sessions                map[uint64]Session
	grants                  map[string]map[uint64]int64
}

func newModel() *model {
	return &model{
		api: map[string]limit.Limit{}, config: map[string]limit.Limit{}, effective: map[string]limit.Limit{},
		sessions: map[uint64]Session{}, grants: map[string]map[uint64]int64{},
	}
}

func (m *model) governing(key string) *limit.Limit {
	limits := slices.Collect(maps.Values(m.effective))
	for i := range limits {
		if limits[i].Shared && limits[i].Pattern.String() == key {
			return &limits[i]
		}
	}
	for _, t := range limittest.Targets() {
		if l, k := limittest.Match(limits, t); k == key {
			return l
		}
	}
	return nil
}

func (m *model) granted(key string) (sum int64) {
	for _, n := range m.grants[key] {
		sum += n
	}
	return sum
}

func (m *model) apply(index, term uint64, c Command) Result {
	m.index = index
	switch c := c.(type) {
	case *Init:
		if m.clusterID != "" {
			return Result{}
		}
		m.clusterID, m.ttl = c.ClusterID, c.TTL
		m.write(&ReplaceLimits{Source: limit.SourceConfig, Limits: c.Limits})
		return Result{Changed: true}
	case *OpenSession:
		return m.open(term, c)
	case *CloseSessions:
		if c.Term != term {
			return Result{Err: ErrStaleTerm}
		}
		return Result{Freed: m.end(c.Sessions...)}
	case *Adjust:
		return m.adjust(term, c)
	case *PutLimit:
		old, ok := m.effective[c.Limit.Pattern.String()]
		if err := modelPrecondition(c.Precondition, ok, old.ModifyIndex); err != nil {
			return Result{Err: err}
		}
		return Result{Changed: m.write(c)}
	case *DeleteLimit:
		old, ok := m.effective[c.Pattern.String()]
		if err := modelPrecondition(c.Precondition, ok, old.ModifyIndex); err != nil {
			return Result{Err: err}
		}
		if !ok {
			return Result{Err: ErrNotFound}
		}
		return Result{Changed: m.write(c)}
	case *ReplaceLimits:
		if err := modelPrecondition(c.Precondition, true, m.tableIndex); err != nil {
			return Result{Err: err}
		}
		return Result{Changed: m.write(c)}
	case *RestoreLimits:
		if err := modelPrecondition(c.Precondition, true, m.tableIndex); err != nil {
			return Result{Err: err}
		}
		return Result{Changed: m.write(c)}
	}
	panic("no such command")
}

func modelPrecondition(p Precondition, exists bool, index uint64) error {
	if p.MustExist && !exists || p.MustNotExist && exists || p.MatchIndex != nil && (!exists || *p.MatchIndex != index) {
		return ErrPrecondition
	}
	return nil
}

func (m *model) open(term uint64, c *OpenSession) Result {
	if c.Term != term {
		return Result{Err: ErrStaleTerm}
	}
	r := Result{Session: m.index}
	for id, s := range m.sessions {
		if s.Node == c.Node {
			if s.Identity != c.Identity {
				return Result{Err: ErrNameTaken, Session: id}
			}
			r.TookOver = id
			r.Freed = m.end(id)
		}
	}
	m.sessions[m.index] = Session{m.index, c.Node, c.Identity}
	return r
}

func (m *model) end(ids ...uint64) []Adjustment {
	var freed []Adjustment
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		delete(m.sessions, id)
		for _, key := range slices.Sorted(maps.Keys(m.grants)) {
			if n := m.grants[key][id]; n > 0 {
				freed = append(freed, Adjustment{id, limit.HostConnections(key), n})
			}
			delete(m.grants[key], id)
		}
	}
	return freed
}

func (m *model) adjust(term uint64, c *Adjust) Result {
	if c.Term != term {
		return Result{Err: ErrStaleTerm}
	}
	if c.Batch == 0 || c.Term == m.batchTerm && c.Batch <= m.batch {
		return Result{Err: ErrRepeated}
	}
	m.batchTerm, m.batch = c.Term, c.Batch
	r := Result{Adjusted: slices.Clone(c.Adjustments)}
	for _, decreases := range []bool{true, false} {
		for i, a := range c.Adjustments {
			if decreases != (a.Delta < 0) {
				continue
			}
			applied := int64(0)
			// One slot at a time, as long as the rules allow it.
			for applied != a.Delta && m.step(a.Session, a.Key.Name, decreases) {
				if decreases {
					applied--
				} else {
					applied++
				}
			}
			r.Adjusted[i].Delta = applied
		}
	}
	return r
}

func (m *model) step(session uint64, key string, decrease bool) bool {
	if decrease {
		if m.grants[key][session] == 0 {
			return false
		}
		m.grants[key][session]--
		return true
	}
	l := m.governing(key)
	if _, open := m.sessions[session]; !open || l == nil || l.Connections == limit.Unlimited || m.granted(key) >= l.Connections {
		return false
	}
	if m.grants[key] == nil {
		m.grants[key] = map[uint64]int64{}
	}
	m.grants[key][session]++
	return true
}

// write applies one of the commands that write limits, then compares.
func (m *model) write(c Command) bool {
	api, config := maps.Clone(m.api), maps.Clone(m.config)
	asked := map[string]limit.Source{} // evictions, and the layer they are asked in
	put := func(layer map[string]limit.Limit, s limit.Source, l limit.Limit) {
		text := l.Pattern.String()
		if l.Evict {
			asked[text] = s
		}
		layer[text] = limit.Limit{Pattern: l.Pattern, Connections: l.Connections, Queue: l.Queue, Shared: l.Shared, Source: s}
	}
	switch c := c.(type) {
	case *PutLimit:
		if c.Limit.Source == limit.SourceAPI {
			put(m.api, limit.SourceAPI, c.Limit)
		} else {
			put(m.config, limit.SourceConfig, c.Limit)
		}
	case *DeleteLimit:
		if _, ok := m.api[c.Pattern.String()]; ok {
			delete(m.api, c.Pattern.String())
		} else {
			delete(m.config, c.Pattern.String())
		}
	case *RestoreLimits:
		m.api, m.config = map[string]limit.Limit{}, map[string]limit.Limit{}
		for _, l := range c.Limits {
			if l.Source == limit.SourceConfig {
				put(m.config, limit.SourceConfig, l)
			}
		}
		for _, l := range c.Limits {
			if l.Source == limit.SourceAPI {
				put(m.api, limit.SourceAPI, l)
			}
		}
	case *ReplaceLimits:
		if c.Source == limit.SourceConfig {
			m.config = map[string]limit.Limit{}
			for _, l := range c.Limits {
				put(m.config, limit.SourceConfig, l)
			}
			break
		}
		m.api, m.config = map[string]limit.Limit{}, map[string]limit.Limit{}
		for _, l := range c.Limits {
			below, ok := config[l.Pattern.String()]
			if ok {
				m.config[l.Pattern.String()] = below
			}
			if ok && below.Connections == l.Connections && below.Queue == l.Queue && below.Shared == l.Shared {
				put(m.config, limit.SourceConfig, l)
			} else {
				put(m.api, limit.SourceAPI, l)
			}
		}
	}
	changed := !maps.Equal(api, m.api) || !maps.Equal(config, m.config) || len(asked) > 0
	m.settle(asked)
	if changed {
		m.tableIndex = m.index
	}
	return changed
}

// settle computes the effective limits, and which of them changed.
func (m *model) settle(asked map[string]limit.Source) {
	before := m.effective
	m.effective = maps.Clone(m.config)
	maps.Copy(m.effective, m.api)
	same := len(before) == len(m.effective)
	for text, l := range m.effective {
		old, ok := before[text]
		same = same && ok && old.Shared == l.Shared && (old.Connections < 0) == (l.Connections < 0)
		l.ModifyIndex, l.Evict = old.ModifyIndex, old.Evict
		value := old
		value.ModifyIndex, value.Evict = l.ModifyIndex, l.Evict
		evict := asked[text] == l.Source
		if !ok || value != l || evict {
			l.ModifyIndex, l.Evict = m.index, evict
		}
		m.effective[text] = l
	}
	if !same {
		m.shapeIndex = m.index
	}
}

// world drives two states and the model with the same commands.
type world struct {
	t           *rapid.T
	a, b        *State
	m           *model
	index, term uint64
	batch       uint64
	// A few patterns and targets for each run, so that commands meet each other's.
	patterns []string
	targets  []limit.Target
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, a: NewState(), b: NewState(), m: newModel(), term: 1}
	w.patterns = rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.Patterns), 1, 6, rapid.ID[string]).Draw(t, "patterns")
	w.targets = rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.Targets()), 2, 7, limit.Target.String).Draw(t, "targets")
	if rapid.IntRange(0, 3).Draw(t, "begun") > 0 {
		// Something to hold, and somebody to hold it.
		w.do(&Init{ClusterID: "c", TTL: time.Second, Limits: []limit.Limit{{Pattern: pattern("*"), Connections: 4}}})
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
	var keys []string
	s.Keys(func(k limit.Key, n int64) bool {
		keys = append(keys, k.Name)
		if n != m.granted(k.Name) || n != s.Granted(k) {
			t.Fatalf("%v: %d granted, want %d", k, n, m.granted(k.Name))
		}
		return true
	})
	held := map[uint64][]Adjustment{}
	for _, key := range slices.Sorted(maps.Keys(m.grants)) {
		want := m.grants[key]
		maps.DeleteFunc(want, func(_ uint64, n int64) bool { return n == 0 })
		got := map[uint64]int64{}
		for _, g := range s.Grants(limit.HostConnections(key)) {
			got[g.Session] = s.GrantOf(g.Session, limit.HostConnections(key))
			held[g.Session] = append(held[g.Session], Adjustment{g.Session, limit.HostConnections(key), g.Slots})
		}
		if !maps.Equal(got, want) || slices.Contains(keys, key) != (len(want) > 0) {
			t.Fatalf("%s: granted %v, want %v", key, got, want)
		}
	}
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

func (w *world) checkTable(t *rapid.T) {
	table := w.a.Table()
	if table.Index != w.m.tableIndex || table.ShapeIndex != w.m.shapeIndex {
		t.Fatalf("table of %d, shape of %d, want %d and %d", table.Index, table.ShapeIndex, w.m.tableIndex, w.m.shapeIndex)
	}
	var want []limit.Limit
	for _, text := range slices.Sorted(maps.Keys(w.m.effective)) {
		want = append(want, w.m.effective[text])
	}
	if !slices.Equal(table.Limits(), want) {
		t.Fatalf("limits\n%+v, want\n%+v", table.Limits(), want)
	}
	var config []string
	for _, l := range w.a.ConfigLimits() {
		config = append(config, l.Pattern.String())
		below := w.m.config[l.Pattern.String()]
		if l.Connections != below.Connections || l.Queue != below.Queue || l.Shared != below.Shared || l.Source != limit.SourceConfig {
			t.Fatalf("the config's limit is %+v, want %+v", l, below)
		}
	}
	if !slices.Equal(config, slices.Sorted(maps.Keys(w.m.config))) {
		t.Fatalf("the config has limits on %v, want %v", config, w.m.config)
	}
	fresh := limit.NewTable(table.Index, table.ShapeIndex, want)
	for _, target := range limittest.Targets() {
		got, key := table.Match(target)
		l, freshKey := fresh.Match(target)
		if key != freshKey || (got == nil) != (l == nil) || got != nil && *got != *l {
			t.Fatalf("%v matches %v, and in a table of its own %v", target, got, l)
		}
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
		Pattern:     pattern(rapid.SampledFrom(w.patterns).Draw(t, "pattern")),
		Connections: rapid.Int64Range(-1, 6).Draw(t, "connections"),
		Evict:       rapid.IntRange(0, 3).Draw(t, "evict") == 0,
		Source:      rapid.SampledFrom([]limit.Source{limit.SourceAPI, limit.SourceConfig}).Draw(t, "source"),
	}
	l.Shared = l.Pattern.Wildcard() && rapid.Bool().Draw(t, "shared")
	if l.Connections >= 0 && rapid.IntRange(0, 3).Draw(t, "queue") == 0 {
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

func (w *world) drawAdjustments(t *rapid.T) []Adjustment {
	var list []Adjustment
	for range rapid.IntRange(0, 6).Draw(t, "adjustments") {
		name := "A..wrong"
		switch rapid.IntRange(0, 9).Draw(t, "kind of key") {
		case 0:
			name = rapid.SampledFrom(w.patterns).Draw(t, "key")
		case 1:
			name = rapid.SampledFrom(limittest.Targets()).Draw(t, "key").String()
		case 2:
		default:
			_, key := w.a.Table().Match(rapid.SampledFrom(w.targets).Draw(t, "key"))
			name = key.Name
		}
		list = append(list, Adjustment{w.drawSession(t), limit.HostConnections(name), rapid.Int64Range(-5, 7).Draw(t, "delta")})
	}
	return list
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
				p := pattern(rapid.SampledFrom(w.patterns).Draw(t, "pattern"))
				w.do(&DeleteLimit{p, w.drawPrecondition(t, w.m.effective[p.String()].ModifyIndex)})
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
	c := &Adjust{w.drawTerm(t), batch, w.drawAdjustments(t)}
	if c.Term == w.term {
		w.batch = max(w.batch, batch)
	}
	w.do(c)
}

func (w *world) put(t *rapid.T) {
	l := w.drawLimit(t)
	if old, ok := w.m.effective[l.Pattern.String()]; ok && old.Connections >= 0 && rapid.Bool().Draw(t, "like the one there") {
		drawn := l
		l = limit.Limit{Pattern: old.Pattern, Connections: old.Connections, Queue: old.Queue, Shared: old.Shared, Source: drawn.Source}
		switch rapid.IntRange(0, 3).Draw(t, "but for") {
		case 0:
			l.Queue = limit.Queue{Timeout: time.Minute, Size: 5}
		case 1:
			l.Shared = drawn.Shared
		case 2:
			l.Connections = max(0, l.Connections-2)
		}
	}
	w.do(&PutLimit{l, w.drawPrecondition(t, w.m.effective[l.Pattern.String()].ModifyIndex)})
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
			limits[0].Connections = 3
		}
	}
	source := rapid.SampledFrom([]limit.Source{limit.SourceAPI, limit.SourceConfig}).Draw(t, "source")
	w.do(&ReplaceLimits{source, limits, w.drawPrecondition(t, w.m.tableIndex)})
}

// restoreLimits writes both layers: of what there is, or anything.
func (w *world) restoreLimits(t *rapid.T) {
	limits := rapid.SliceOfNDistinct(rapid.Custom(w.drawLimit), 0, len(w.patterns)+2, func(l limit.Limit) string {
		return l.Source.String() + l.Pattern.String()
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
