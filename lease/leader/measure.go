package leader

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// measure is what a key is planned in. A slot of connections is one unit. A rate is leased in units
// too, each a token bucket of its own: that they fill with time concerns the nodes alone, and here
// they are handed round as slots are.
type measure struct {
	rate     bool
	capacity int64 // units
	whole    int64 // the same, in slots or shares
	unit     int64 // how many slots, or shares of a rate, are one unit in the log and on the stream
	// overhangs is set where connections may be open without a slot, and must then be covered
	// before anything else. A rate has nothing that stays open, and a limit that only reports lets
	// connections go on above what is granted.
	overhangs bool
	// steadyTurn is how long the turn of an extra unit lasts at least where everybody has a unit
	// besides. See [measureOf].
	steadyTurn time.Duration
}

const (
	// steadyTurn is the shortest of such turns: the shares are nearly equal, and each turn is an entry
	// or two.
	steadyTurn = 10 * time.Second
	// requestsPerTurn lets turns last longer where requests are rare: 10,000 of them must cost no more
	// than 50 entries. manyUnits is from how many units on.
	requestsPerTurn = 600
	manyUnits       = 10
	// longest bounds times that a slow rate would make too long to count.
	longest = 100 * 365 * 24 * time.Hour
)

// measureOf is the measure of a resource that a limit caps.
func measureOf(l *limit.Limit, r limit.Resource) measure {
	if !r.IsRate() {
		return measure{capacity: l.Connections, whole: l.Connections, unit: 1, overhangs: !l.Report}
	}
	m := measure{rate: true, capacity: l.Units(r), whole: limit.Shares, unit: l.UnitShares(r), steadyTurn: steadyTurn}
	if r == limit.Requests && m.capacity >= manyUnits {
		m.steadyTurn = max(steadyTurn, timeToFill(requestsPerTurn*limit.TokenGrains, l.PerSecond(r)))
	}
	return m
}

// left is how many units are left where so many slots or shares are taken; below 0 where a limit
// was lowered.
func (m *measure) left(taken int64) int64 {
	free := m.whole - taken
	if free < 0 {
		return free // of slots alone: a rate's grants never exceed the whole
	}
	return free / m.unit
}

// timeToFill is how long so many grains take to come.
func timeToFill(grains int64, perSecond float64) time.Duration {
	if seconds := float64(grains) / perSecond; seconds < longest.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return longest
}

// turnEnd is when the turn of an extra unit is over that has been held since a moment. Long turns
// of one key end together, so that one entry hands on all of them.
func (p *keyPlan) turnEnd(since time.Duration) time.Duration {
	if p.turn == p.a.turn {
		return since + p.turn
	}
	return (since + p.turn*3/2 - 1) / p.turn * p.turn
}
