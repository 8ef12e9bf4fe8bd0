package leasetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// bandwidth adds, to some of the plans, limits on bandwidth, flows that run into them, and changes
// of those limits.
func (g *generator) bandwidth() {
	d := newDice(g.p.Seed, 12)
	if !d.one(8) {
		return
	}
	g.p.Every *= 8 // flows make many events
	var added []Limit
	for range 1 + d.below(4) {
		added = append(added, g.paced(&d))
	}
	for i := range 2 + d.below(2*g.p.Nodes) {
		f := Flow{
			Node: i % g.p.Nodes, Host: "bulk", Client: fmt.Sprintf("10.0.0.%d", 1+d.below(2)), User: fmt.Sprintf("u%d", d.below(2)),
			Most: pick(&d, 3000, 16<<10, 64<<10, 1<<20), Busy: Duration(d.scale(second, 8*second)),
		}
		if d.one(5) {
			f.Host = "up"
		}
		if !d.one(3) {
			f.Idle = Duration(d.scale(500*ms, 6*second))
		}
		f.Ways = pick(&d, "", "up", "both", "both")
		g.p.Flows = append(g.p.Flows, f)
	}
	if g.changesLimits() {
		for range d.below(4) {
			g.pacedChange(&d, added[d.below(len(added))])
		}
	}
	g.ownLimits()
	slices.SortStableFunc(g.p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}

// changesLimits reports whether limits may change in the plan.
func (g *generator) changesLimits() bool {
	return !slices.ContainsFunc(g.p.Faults, func(f Fault) bool { return f.Kind == FaultPutBack })
}

// paced adds one limit, or a bandwidth to one that is there.
func (g *generator) paced(d *dice) Limit {
	l := pick(d,
		Limit{Scope: "total"}, Limit{Scope: "client", Pattern: "*"}, Limit{Scope: "client", Pattern: "10.0.0.0/24", Shared: true},
		Limit{Scope: "client", Pattern: "10.0.0.1"}, Limit{Scope: "user", Pattern: "*"}, Limit{Scope: "user", Pattern: "u0"},
		Limit{Pattern: "bulk"}, Limit{Pattern: "bulk"}, Limit{Pattern: "up"})
	if i := slices.IndexFunc(g.p.Limits, func(o Limit) bool { return o.Scope == l.Scope && o.Pattern == l.Pattern }); i >= 0 {
		g.p.Limits[i].bytes(d)
		return g.p.Limits[i]
	}
	l.Connections = limit.Unlimited
	l.bytes(d)
	l.Report = d.one(10)
	g.p.Limits = append(g.p.Limits, l)
	return l
}

// bytes gives a limit a bandwidth in one direction, or in both, that fills its burst in a few
// seconds. That of a connection alone may be so slow that a piece takes as long as the plan.
func (l *Limit) bytes(d *dice) {
	l.Upload, l.Download = speed(d), speed(d)
	if l.Scope == limit.ScopeConnection.String() && d.one(3) {
		l.Upload, l.Download = pick[int64](d, 200, 1_000), pick[int64](d, 200, 1_000)
	}
	l.AtOnce = max(limit.MinByteBurst, min(pick[int64](d, 4<<10, 6_000, 8<<10, 16<<10, 64<<10), 3*min(l.Upload, l.Download)))
	switch d.below(4) {
	case 0:
		l.Upload = l.Download
	case 1:
		l.Upload = 0
	case 2:
		l.Download = 0
	}
}

// speed is some bytes a second.
func speed(d *dice) int64 {
	if d.one(16) {
		return 500_000
	}
	return pick[int64](d, 8_000, 12_000, 20_000, 40_000, 80_000)
}

// pacedChange raises, lowers or removes a bandwidth, or toggles whether its limit only reports.
func (g *generator) pacedChange(d *dice, l Limit) {
	at := d.upTo(g.p.Length.D())
	change := l
	switch d.below(6) {
	case 0:
		change.Upload, change.Download, change.AtOnce = 0, 0, 0
	case 1:
		change.Report = !change.Report
	default:
		change.bytes(d)
	}
	if change.Upload == 0 && change.Download == 0 && change.Connections < 0 && change.Requests == "" {
		change = Limit{Scope: l.Scope, Pattern: l.Pattern, Connections: limit.Unlimited, Delete: true}
	}
	g.add(at, Fault{Kind: FaultLimit, Limit: &change})
	if change.Delete || d.one(2) {
		g.add(at+d.upTo(3*second), Fault{Kind: FaultLimit, Limit: &l})
	}
}

// isBandwidth reports whether a resource is bytes by time.
func isBandwidth(r limit.Resource) bool { return r == limit.Upload || r == limit.Download }

// pieceTime is how long a piece of a key takes to come, and to be moved: where units go round, its
// node may have to hand it on first.
func (u *upstream) pieceTime(k *keyInfo) time.Duration {
	piece := time.Duration(pieceOf(k.rate) / k.rate.now.second * float64(time.Second))
	if u.fewUnits(k) {
		piece += u.w.handing()
	}
	return piece
}

// pieceOf is how many bytes a flow takes of a rate at once.
func pieceOf(r *rateInfo) float64 {
	return max(float64(limit.MinByteBurst), r.now.second*(20*ms).Seconds())
}

// longestWatch bounds the time for which flows are watched.
const longestWatch = 8 * second

// flowsWatched is for how long flows must be watched, so that what they use can be told.
func (w *world) flowsWatched() (longest time.Duration) {
	for _, x := range w.nodes {
		for _, f := range x.flows {
			if window, _ := w.up.windowOf(f); window <= longestWatch {
				longest = max(longest, window+second)
			}
		}
	}
	return longest
}

// windowOf is the time in which a flow that always has bytes to move must have used up one of its
// limits, 0 where it is under none, and the longest for which it may move none.
func (u *upstream) windowOf(f *flow) (window, turn time.Duration) {
	w := u.w
	turn = w.patience()
	for _, i := range f.counted() {
		r := u.keys[i].rate
		if r.behind {
			u.rateChanged(&u.keys[i])
		}
		if r.now.second == 0 {
			continue
		}
		piece := u.pieceTime(&u.keys[i])
		window = max(window, w.patience()+10*piece)
		turn = max(turn, w.patience()+3*piece*time.Duration(len(w.plan.Flows)+2))
	}
	if f.own.now.second != 0 {
		_, piece := f.ownPiece()
		window, turn = max(window, w.patience()+10*piece), max(turn, w.patience()+3*piece)
	}
	return window, turn
}

// fewUnits reports whether the units of a rate go round between the nodes.
func (u *upstream) fewUnits(k *keyInfo) bool {
	return u.table.Governing(k.key).Units(k.key.Resource) < int64(len(u.w.nodes))
}

// watchFlows judges the flows that have had bytes to move all the time: one of the limits that they
// are under is used up, and all have their turns.
func (u *upstream) watchFlows() {
	for _, x := range u.w.nodes {
		for _, f := range x.flows {
			u.watchFlow(f)
		}
	}
	for i := range u.keys {
		u.watchUnits(i)
	}
}

// watchUnits judges where the units of a bandwidth are: not for long with nodes alone on which
// nobody has bytes to move, while flows of others do.
func (u *upstream) watchUnits(key int) {
	k := &u.keys[key]
	if !isBandwidth(k.key.Resource) || k.rate.now.second == 0 {
		return
	}
	patience := u.w.patience()
	if u.fewUnits(k) { // each node has its turn, and its flows may wait for something else meanwhile
		patience += time.Duration(len(u.w.nodes)) * u.w.handing()
	}
	stranded, lacks := false, false
	for _, x := range u.w.nodes {
		wants := slices.ContainsFunc(x.flows, func(f *flow) bool { return !f.asleep && slices.Contains(f.counted(), key) })
		use, _ := x.node.Use(x.clock(), k.key)
		switch {
		case wants && use.Granted > 0:
			k.rate.stranded = 0
			return
		case use.Waiting > 0:
			lacks = true
		case use.Granted > 0:
			stranded = true
		}
	}
	switch {
	case !stranded || !lacks:
		k.rate.stranded = 0
	case k.rate.stranded == 0:
		k.rate.stranded = u.w.now
	case u.w.now-k.rate.stranded > patience:
		u.w.fail(BreachStarved, "flows wait for %s, and for %v all units have been with nodes that have no use for them", k.key, u.w.now-k.rate.stranded)
	}
}

func (u *upstream) watchFlow(f *flow) {
	window, turn := u.windowOf(f)
	if !f.busy || f.x.idle {
		return
	}
	busy := u.w.now - max(f.since, u.finalFrom)
	if waited := u.w.now - max(f.last, f.since, u.finalFrom); waited > turn {
		u.w.fail(BreachStarved, "the %s of a flow on node %s to %s has moved nothing for %v, want at most %v", f.way, f.x.name, f.Host, waited, turn)
	}
	if window == 0 || busy <= window {
		return
	}
	u.w.out.Watched++
	said := ""
	for _, i := range f.counted() {
		k := &u.keys[i]
		if k.rate.now.second == 0 {
			continue
		}
		used, want := k.rate.used(u.w.now-window), u.wanted(i, window)
		if used >= want {
			return
		}
		said += fmt.Sprintf(" %.0f of %s, want %.0f;", used, k.key, want)
	}
	if f.own.now.second != 0 {
		used, want := f.own.used(u.w.now-window), f.ownWanted(window)
		if used >= want {
			return
		}
		said += fmt.Sprintf(" %.0f of its own, want %.0f;", used, want)
	}
	u.w.fail(BreachStarved, "the %s of a flow on node %s to %s has had bytes to move all the time, and in the last %v others and it used%s", f.way, f.x.name, f.Host, window, said)
}

// wanted is how many bytes of a key must be used in a time in which some flow waits for it: nearly
// all, where the slowest clock fills it, but for a piece that lies in each node's bucket, or unit,
// and one that a flow gives back when its unit has just gone. It is less where units go round, or
// follow flows that come and go; and where flows wait for others too, of which each node may have a
// unit.
func (u *upstream) wanted(key int, window time.Duration) float64 {
	k := &u.keys[key]
	slow, fast := 1.0, 1.0
	for _, ppm := range u.w.plan.Drift {
		slow, fast = min(slow, 1+float64(ppm)/1e6), max(fast, 1+float64(ppm)/1e6)
	}
	part, nodes := 0.95, float64(len(u.w.nodes))
	steady, alone := u.flowsUnder(key, window)
	if !steady || u.fewUnits(k) {
		part = 0.5
	}
	units := float64(u.table.Governing(k.key).Units(k.key.Resource))
	if !alone && !u.fewUnits(k) {
		part = 0.5 * (units - nodes + 1) / units
	}
	lie := 2 * nodes
	if u.fewUnits(k) {
		lie = units
	}
	pieces := float64(window) / float64(u.pieceTime(k))
	return pieceOf(k.rate) * (part*pieces/fast*slow - lie)
}

// unitsFollow is how long it takes until all units are where flows are busy. They follow within a
// second, but a node that has just become idle keeps a spare one for three more.
const unitsFollow = 4 * second

// flowsUnder reports whether all flows under a key have been busy, or idle, for a while, in which
// none has ended, and whether none of them is under another limit.
func (u *upstream) flowsUnder(key int, window time.Duration) (steady, alone bool) {
	window += unitsFollow
	steady, alone = u.w.now-u.w.flowEnded >= window, true
	for _, x := range u.w.nodes {
		for _, f := range x.flows {
			if keys := f.counted(); slices.Contains(keys, key) {
				steady = steady && u.w.now-f.since >= window
				alone = alone && f.limits() == 1
			}
		}
	}
	return steady, alone
}
