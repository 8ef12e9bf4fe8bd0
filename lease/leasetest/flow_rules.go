package leasetest

import (
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// The rules of bandwidth are broken in what flows do with what their meters give, and in what lies
// in their nodes' buckets.

// lateness is how late a flow may be whose turn it is. Where a piece outlives the lease, it shows
// the sooner.
func (f *flow) lateness(most time.Duration) time.Duration {
	if f.w.rule == RulePieceOutlives && f.dice.one(3) {
		return 4 * second
	}
	return most
}

// fenced lets a flow whose turn it was move its piece after its node has fenced, where that rule is
// broken.
func (f *flow) fenced(turn bool) {
	if f.w.rule == RulePieceOutlives && turn && f.x.node.Session(f.x.clock()).State != leasepb.SessionLive {
		f.movedShared(min(int64(f.Most), limit.MinByteBurst))
	}
}

// spoil breaks a rule in how a flow moves what it has got, of which the rest goes back. It reports
// true where the flow goes on by itself.
func (f *flow) spoil(k, rest *int) bool {
	switch f.w.rule {
	case RulePieceTwice:
		*rest += *k
	case RulePieceHeld:
		if f.limits() > 1 && f.dice.one(2) {
			f.behind = int64(*k)
			f.x.at(f.dice.upTo(2*second), false, f, evBehind, 0)
			return true
		}
	}
	return false
}

// renew gives a flow another meter when its limits have changed, and with it a full bucket of its
// own, where that rule is broken.
func (f *flow) renew() {
	if f.w.rule == RuleOwnAnew && f.table != nil && f.table != f.x.node.Table() {
		f.x.node.Unpace(f.x.clock(), f.meter)
		f.meter = lease.NewMeter(&f.subject, f.way, f)
	}
}

// forgot fills the pools of a flow that its node has forgotten, where that rule is broken.
func (f *flow) forgot() {
	if f.w.rule != RuleForgottenFull || f.x.node.Table() == nil {
		return
	}
	if f.met == nil {
		f.met = map[limit.Key]bool{}
	}
	for _, i := range f.counted() {
		key := f.w.up.keys[i].key
		_, known := f.x.node.Use(f.x.clock(), key)
		if f.met[key] && !known {
			f.x.besides(key, float64(f.x.node.Table().Governing(key).BurstGrains(key.Resource)))
		}
		f.met[key] = known
	}
}

// besides lets a node's bucket hold bytes that are not there.
func (x *process) besides(key limit.Key, bytes float64) {
	if x.more == nil {
		x.more = map[limit.Key]float64{}
	}
	x.more[key] += bytes
}

// tookBesides takes them.
func (x *process) tookBesides(key limit.Key) float64 {
	n := x.more[key]
	delete(x.more, key)
	return n
}

// keepLevels lets the buckets of bytes keep what no longer fits into them once their rate is lower,
// where that rule is broken.
func (x *process) keepLevels(m *leasepb.LeaderMessage, receive func() error) error {
	if x.w.rule != RuleLoweredKeeps || m.GetLimits() == nil {
		return receive()
	}
	levels := map[limit.Key]float64{}
	for _, u := range x.node.Uses(x.clock()) {
		levels[u.Key] = u.Level
	}
	err := receive()
	for _, u := range x.node.Uses(x.clock()) {
		if r := u.Key.Resource; isBandwidth(r) && u.Granted > 0 && u.Limit.Caps(r) && levels[u.Key] > u.Level+1 {
			x.besides(u.Key, levels[u.Key]-u.Level)
		}
	}
	return err
}
