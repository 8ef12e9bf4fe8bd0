package leasetest

import (
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// spoilUnits breaks a rule of rates in what a node says. A bucket that keeps what leaves it is one
// whose release brings as much as it can hold.
func (w *world) spoilUnits(m *leasepb.NodeMessage) *leasepb.NodeMessage {
	if m.GetUpdate() == nil {
		return m
	}
	m = proto.CloneOf(m)
	u := m.GetUpdate()
	if w.rule == RuleNoCut || w.rule == RuleLevelUnsaid {
		for _, r := range u.Releases {
			if key, err := fsmpb.ParseKey(r.Key); err == nil && key.Resource.IsRate() {
				r.Level = 0
				if w.rule == RuleNoCut {
					r.Level = math.MaxInt64
				}
			}
		}
		return m
	}
	for _, d := range u.Demands {
		key, err := fsmpb.ParseKey(d.Key)
		if err != nil || !key.Resource.IsRate() {
			continue
		}
		if unit := w.up.table.Governing(key).UnitShares(key.Resource); d.Held >= unit {
			u.Releases = append(u.Releases, &leasepb.Holding{Key: d.Key, Slots: unit})
		}
	}
	return m
}

// spoilLevels breaks a rule of rates in what the leader hears of its entry, and tells.
func (l *leadership) spoilLevels(res fsm.Result) fsm.Result {
	w := l.w
	switch w.rule {
	case RuleUnitFull, RuleLevelTwice, RuleLevelLost, RuleTwoFill:
	default:
		return res
	}
	res.Adjusted = slices.Clone(res.Adjusted)
	for i := range res.Adjusted {
		a := &res.Adjusted[i]
		if a.Delta <= 0 || !a.Key.Resource.IsRate() {
			continue
		}
		switch w.rule {
		case RuleUnitFull:
			a.Level = w.up.table.Governing(a.Key).BurstGrains(a.Key.Resource) * a.Delta / limit.Shares
		case RuleLevelTwice:
			first := a.Level
			a.Level += w.levels[a.Key]
			w.levels[a.Key] = first
		case RuleLevelLost:
			a.Level = 0
		case RuleTwoFill:
			for _, s := range l.streams {
				if s.welcomed && !s.ended && s.session != a.Session {
					s.assign(a.Key, a.Delta)
					break
				}
			}
		}
	}
	return res
}

// refill lets the log forget the levels of all that nobody holds: it counts as full.
func (m *brokenMachine) refill() {
	if m.x.w.rule != RuleRefill {
		return
	}
	c := &fsm.Adjust{Term: m.term, Batch: m.x.batches.made(m.term)}
	m.st.Kept(func(key limit.Key) bool {
		c.Forget = append(c.Forget, key)
		return true
	})
	m.apply(c)
}

// loseBursts lets the log know of what is free no other burst than the present one: it is forgotten,
// leased to a ghost, and given back with what lay in it.
func (m *brokenMachine) loseBursts() {
	if m.x.w.rule != RuleSmallBurst {
		return
	}
	var ghost uint64
	var forget []limit.Key
	var lease, back []fsm.Adjustment
	m.st.Kept(func(key limit.Key) bool {
		l := m.st.Table().Governing(key)
		if n := l.Capacity(key.Resource); n > 0 && m.st.LargestBurst(key) > l.BurstGrains(key.Resource) {
			if ghost == 0 {
				ghost = m.ghost()
			}
			forget = append(forget, key)
			lease = append(lease, fsm.Adjustment{Session: ghost, Key: key, Delta: n})
			back = append(back, fsm.Adjustment{Session: ghost, Key: key, Delta: -n, Level: m.st.FreeLevel(key)})
		}
		return true
	})
	if ghost == 0 {
		return
	}
	for _, c := range []*fsm.Adjust{{Forget: forget}, {Adjustments: lease}, {Adjustments: back}} {
		c.Term, c.Batch = m.term, m.x.batches.made(m.term)
		m.apply(c)
	}
	m.apply(&fsm.CloseSessions{Term: m.term, Sessions: []uint64{ghost}})
}
