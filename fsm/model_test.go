package fsm

import (
	"maps"
	"math/big"
	"slices"
	"time"

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
	api, config             map[limit.Pattern]limit.Limit
	effective               map[limit.Pattern]limit.Limit
	tableIndex, shapeIndex  uint64
	sessions                map[uint64]Session
	grants                  map[limit.Key]map[uint64]int64
	levels                  map[limit.Key]int64 // of rates that have been leased
	bursts                  map[limit.Key]int64 // of these, the largest while leased
}

func newModel() *model {
	return &model{
		api: map[limit.Pattern]limit.Limit{}, config: map[limit.Pattern]limit.Limit{}, effective: map[limit.Pattern]limit.Limit{},
		sessions: map[uint64]Session{}, grants: map[limit.Key]map[uint64]int64{}, levels: map[limit.Key]int64{}, bursts: map[limit.Key]int64{},
	}
}

// governing is the limit under which somebody is counted as this key, by the reference.
func (m *model) governing(key limit.Key) *limit.Limit {
	limits := slices.Collect(maps.Values(m.effective))
	for i := range limits {
		p := limits[i].Pattern
		if p.Scope() == key.Scope && limits[i].Shared && p.String() == key.Name {
			return &limits[i]
		}
	}
	if key.Scope == limit.ScopeConnection {
		return nil
	}
	for _, s := range limittest.Subjects() {
		if l, name := limittest.Find(limits, key.Scope, &s); l != nil && name == key.Name {
			return l
		}
	}
	return nil
}

// capacity is how much of a key may be granted, and its bucket where it is a rate.
func (m *model) capacity(key limit.Key) (capacity int64, b modelBucket) {
	l := m.governing(key)
	if l == nil {
		return 0, b
	}
	switch key.Resource {
	case limit.Connections:
		return max(0, l.Connections), b
	case limit.Requests:
		b = modelBucket{l.Requests.Burst * 1_000_000, l.Requests.Burst}
	case limit.Upload:
		b = bandwidthBucket(l.Bandwidth.Upload, l.Bandwidth.Burst)
	case limit.Download:
		b = bandwidthBucket(l.Bandwidth.Download, l.Bandwidth.Burst)
	}
	if b.burst == 0 {
		return 0, modelBucket{}
	}
	b.units = min(b.units, 1000)
	return 1_000_000, b
}

// modelBucket is what a rate lets through at once, and in how many units it is leased.
type modelBucket struct{ burst, units int64 }

// whole counts the units in shares, one after the other.
func (b modelBucket) whole(shares int64) (n int64) {
	for unit := 1_000_000 / b.units; shares >= unit && n < b.units; shares -= unit {
		n++
	}
	return n
}

// size is what shares may hold.
func (b modelBucket) size(shares int64) int64 { return share(b.burst, b.whole(shares), b.units) }

func bandwidthBucket(rate, burst int64) modelBucket {
	switch {
	case rate == 0:
		return modelBucket{}
	case burst == 0:
		burst = max(rate, 65536)
	}
	return modelBucket{burst, burst / 4096}
}

// share is n·k/of, rounded down.
func share(n, k, of int64) int64 {
	product := new(big.Int).Mul(big.NewInt(n), big.NewInt(k))
	return product.Div(product, big.NewInt(of)).Int64()
}

func (m *model) granted(key limit.Key) (sum int64) {
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
		old, ok := m.effective[c.Limit.Pattern]
		if err := modelPrecondition(c.Precondition, ok, old.ModifyIndex); err != nil {
			return Result{Err: err}
		}
		return Result{Changed: m.write(c)}
	case *DeleteLimit:
		old, ok := m.effective[c.Pattern]
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

// end closes sessions. Shares of rates come back empty, and make no room for what a lower limit has
// taken from the others.
func (m *model) end(ids ...uint64) []Adjustment {
	var freed []Adjustment
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		delete(m.sessions, id)
		for _, key := range slices.SortedFunc(maps.Keys(m.grants), limit.Key.Compare) {
			if n := m.grants[key][id]; n > 0 {
				if _, bucket := m.capacity(key); key.Resource.IsRate() && bucket.burst > 0 {
					m.levels[key] = m.freeLevel(key)
				}
				freed = append(freed, Adjustment{Session: id, Key: key, Delta: n})
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
			if a.Key.Resource.IsRate() {
				r.Adjusted[i].Delta, r.Adjusted[i].Level = m.adjustRate(a)
				continue
			}
			applied := int64(0)
			// One slot at a time, as long as the rules allow it.
			for applied != a.Delta && m.step(a.Session, a.Key, decreases) {
				if decreases {
					applied--
				} else {
					applied++
				}
			}
			r.Adjusted[i].Delta, r.Adjusted[i].Level = applied, 0
		}
	}
	for _, key := range c.Forget {
		if m.granted(key) == 0 {
			delete(m.levels, key)
			delete(m.bursts, key)
		}
	}
	return r
}

func (m *model) step(session uint64, key limit.Key, decrease bool) bool {
	if decrease {
		if m.grants[key][session] == 0 {
			return false
		}
		m.grants[key][session]--
		return true
	}
	capacity, _ := m.capacity(key)
	if _, open := m.sessions[session]; !open || m.granted(key) >= capacity {
		return false
	}
	m.give(session, key, 1)
	return true
}

func (m *model) give(session uint64, key limit.Key, n int64) {
	if m.grants[key] == nil {
		m.grants[key] = map[uint64]int64{}
	}
	m.grants[key][session] += n
}

// adjustRate moves shares, and what lies in them.
func (m *model) adjustRate(a Adjustment) (delta, level int64) {
	capacity, bucket := m.capacity(a.Key)
	if a.Delta < 0 {
		back := min(m.grants[a.Key][a.Session], -max(a.Delta, -1_000_000))
		if back == 0 {
			return 0, 0
		}
		m.give(a.Session, a.Key, -back)
		if bucket.burst == 0 {
			return -back, 0
		}
		level = min(max(a.Level, 0), bucket.size(back))
		m.levels[a.Key] = level + min(m.levels[a.Key], bucket.size(1_000_000-m.granted(a.Key)-back))
		return -back, level
	}
	free := capacity - m.granted(a.Key)
	if _, open := m.sessions[a.Session]; !open || free <= 0 || a.Delta == 0 {
		return 0, 0
	}
	in := m.freeLevel(a.Key)
	delta = min(a.Delta, free)
	level = min(in, bucket.size(delta))
	m.levels[a.Key] = min(in-level, bucket.size(free-delta))
	m.give(a.Session, a.Key, delta)
	m.bursts[a.Key] = max(m.bursts[a.Key], bucket.burst)
	return delta, level
}

// freeLevel is what lies in the shares that nobody holds.
func (m *model) freeLevel(key limit.Key) int64 {
	_, bucket := m.capacity(key)
	level, leased := m.levels[key]
	switch {
	case !leased:
		return bucket.burst
	case bucket.burst == 0:
		return level
	}
	return min(level, bucket.size(1_000_000-m.granted(key)))
}

// write applies one of the commands that write limits, then compares.
func (m *model) write(c Command) bool {
	api, config := maps.Clone(m.api), maps.Clone(m.config)
	asked := map[limit.Pattern]limit.Source{} // evictions, and the layer they are asked in
	put := func(layer map[limit.Pattern]limit.Limit, s limit.Source, l limit.Limit) {
		if l.Evict {
			asked[l.Pattern] = s
		}
		layer[l.Pattern] = valueOf(l, s)
	}
	switch c := c.(type) {
	case *PutLimit:
		if c.Limit.Source == limit.SourceAPI {
			put(m.api, limit.SourceAPI, c.Limit)
		} else {
			put(m.config, limit.SourceConfig, c.Limit)
		}
	case *DeleteLimit:
		if _, ok := m.api[c.Pattern]; ok {
			delete(m.api, c.Pattern)
		} else {
			delete(m.config, c.Pattern)
		}
	case *RestoreLimits:
		m.api, m.config = map[limit.Pattern]limit.Limit{}, map[limit.Pattern]limit.Limit{}
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
			m.config = map[limit.Pattern]limit.Limit{}
			for _, l := range c.Limits {
				put(m.config, limit.SourceConfig, l)
			}
			break
		}
		m.api, m.config = map[limit.Pattern]limit.Limit{}, map[limit.Pattern]limit.Limit{}
		for _, l := range c.Limits {
			below, ok := config[l.Pattern]
			if ok {
				m.config[l.Pattern] = below
			}
			if ok && below == withIndex(valueOf(l, limit.SourceConfig), below) {
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

// valueOf is what a limit allows, in a layer.
func valueOf(l limit.Limit, s limit.Source) limit.Limit {
	return limit.Limit{
		Pattern: l.Pattern, Connections: l.Connections, Requests: l.Requests, Bandwidth: l.Bandwidth,
		Queue: l.Queue, Shared: l.Shared, Report: l.Report, Source: s,
	}
}

// withIndex is l as if it had been written when old was.
func withIndex(l, old limit.Limit) limit.Limit {
	l.ModifyIndex, l.Evict = old.ModifyIndex, old.Evict
	return l
}

// sameCounts reports whether two limits count the same in the same way.
func sameCounts(a, b limit.Limit) bool {
	return a.Shared == b.Shared && a.Report == b.Report && (a.Connections < 0) == (b.Connections < 0) &&
		(a.Requests.Thousandths == 0) == (b.Requests.Thousandths == 0) &&
		(a.Bandwidth.Upload == 0) == (b.Bandwidth.Upload == 0) && (a.Bandwidth.Download == 0) == (b.Bandwidth.Download == 0)
}

// settle computes the effective limits, and which of them changed.
func (m *model) settle(asked map[limit.Pattern]limit.Source) {
	before := m.effective
	m.effective = maps.Clone(m.config)
	maps.Copy(m.effective, m.api)
	same := len(before) == len(m.effective)
	for p, l := range m.effective {
		old, ok := before[p]
		same = same && ok && sameCounts(old, l)
		l = withIndex(l, old)
		evict := asked[p] == l.Source
		if !ok || old != l || evict {
			l.ModifyIndex, l.Evict = m.index, evict
		}
		m.effective[p] = l
	}
	if !same {
		m.shapeIndex = m.index
	}
	for key := range m.levels {
		if _, bucket := m.capacity(key); m.granted(key) > 0 {
			m.bursts[key] = max(m.bursts[key], bucket.burst)
		}
	}
}
