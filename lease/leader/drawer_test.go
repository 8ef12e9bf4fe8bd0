package leader

import (
	"math"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// drawer is a node that draws requests from its part of one rate, as plainly as the protocol lets
// it.
type drawer struct {
	conn  uint64
	key   limit.Key
	limit *limit.Limit
	// pace is how many requests come in a second; below 0: as many as there are tokens.
	pace    float64
	waiting float64
	taken   int

	granted, target    int64 // shares
	seq                uint64
	level              float64 // tokens
	at                 time.Duration
	used               bool // a token has been taken since the last grant
	releasing, leaving int64
	drawn              [6]float64 // in quarters of a second, the present one first
	quarter            time.Duration
	idleSince          time.Duration
	said               leasepb.Demand
}

func (d *drawer) unit() int64 { return d.limit.UnitShares(d.key.Resource) }

// part is the rate and size of what the node holds, in tokens.
func (d *drawer) part() (perSecond, size float64) {
	units := float64(d.granted / d.unit())
	all := float64(d.limit.Units(d.key.Resource))
	grains := float64(limit.TokenGrains)
	return d.limit.PerSecond(d.key.Resource) / grains * units / all * 0.999, float64(d.limit.BurstGrains(d.key.Resource)) / grains * units / all
}

// pass lets the time up to now fill the bucket and bring requests, and serves them. It calls take
// for each.
func (d *drawer) pass(now time.Duration, take func()) {
	perSecond, size := d.part()
	d.level = min(d.level+(now-d.at).Seconds()*perSecond, size)
	if d.pace < 0 {
		d.waiting = 1000
	} else {
		d.waiting = min(d.waiting+(now-d.at).Seconds()*d.pace, 1000)
	}
	d.at = now
	for now-d.quarter >= 250*time.Millisecond {
		d.quarter += 250 * time.Millisecond
		copy(d.drawn[1:], d.drawn[:])
		d.drawn[0] = 0
	}
	for d.level >= 1-1e-9 && d.waiting >= 1 {
		d.level--
		d.waiting--
		d.drawn[0]++
		d.taken++
		d.used = true
		take()
	}
	d.yield()
	if d.granted-d.need()-d.spare() <= 0 || d.level < size-1e-9 {
		d.idleSince = now
	}
	if now-d.idleSince > 3*time.Second {
		d.giveBack(d.granted - d.need() - d.spare())
	}
}

// need is how many shares the draw of lately takes, and spare what the node keeps beyond.
func (d *drawer) need() int64 {
	if d.drawn[0]+d.drawn[1]+d.drawn[2] == 0 {
		return 0
	}
	highest := 0.0
	for _, n := range d.drawn[1:] {
		highest = max(highest, n*4)
	}
	perUnit := d.limit.PerSecond(d.key.Resource) / float64(limit.TokenGrains) / float64(d.limit.Units(d.key.Resource))
	return min(int64(math.Ceil(highest/perUnit)), d.limit.Units(d.key.Resource)) * d.unit()
}

func (d *drawer) spare() int64 {
	if d.need() == 0 {
		return 0
	}
	return max(d.need()/d.unit()/4, 1) * d.unit()
}

func (d *drawer) yield() {
	if d.target < 0 || d.granted <= d.target {
		return
	}
	k := d.granted - d.target
	if !d.used && d.waiting >= 1 {
		k = min(k, d.granted-d.unit())
	}
	d.giveBack(k)
}

func (d *drawer) giveBack(k int64) {
	if k <= 0 {
		return
	}
	gone := math.Floor(d.level * float64(limit.TokenGrains) * float64(k) / float64(d.granted))
	d.leaving += int64(gone)
	d.level -= gone / float64(limit.TokenGrains)
	d.granted -= k
	d.releasing += k
}

// take takes what the leader assigns.
func (d *drawer) take(as *leasepb.Assign) {
	for _, g := range as.Grants {
		d.granted += g.Slots
		_, size := d.part()
		d.level = min(d.level+float64(g.Level)/float64(limit.TokenGrains), size)
		d.used = false
	}
	for _, t := range as.Targets {
		d.target, d.seq = t.Slots, t.Seq
	}
	d.yield()
}

// update is what the node has to say, or nil.
func (d *drawer) update() *leasepb.Update {
	m := leasepb.Demand{Key: fsmpb.KeyOf(d.key), Held: d.granted, InUse: d.need(), Headroom: d.spare(), TargetSeq: d.seq}
	if d.waiting >= 1 {
		units, need := d.limit.Units(d.key.Resource), m.InUse/d.unit()
		m.Waiting = max(min(max(2*(d.granted/d.unit()), need)+1, units)-need, 1) * d.unit()
	}
	change := (m.InUse - d.said.InUse) / d.unit()
	moved := max(change, -change) > max(d.said.InUse/d.unit()/8, 1) || (m.InUse == 0) != (d.said.InUse == 0)
	if d.releasing == 0 && m.Held == d.said.Held && m.TargetSeq == d.said.TargetSeq && (m.Waiting > 0) == (d.said.Waiting > 0) && !moved {
		return nil
	}
	u := &leasepb.Update{Demands: []*leasepb.Demand{&m}, LimitsIndex: 1}
	if d.releasing > 0 {
		u.Releases = []*leasepb.Holding{{Key: m.Key, Slots: d.releasing, Level: d.leaving}}
		d.releasing, d.leaving = 0, 0
	}
	d.said.Held, d.said.InUse, d.said.Waiting, d.said.TargetSeq = m.Held, m.InUse, m.Waiting, m.TargetSeq
	return u
}
