package leasetest

import (
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// rateInfo judges the tokens, or the bytes, of one key: in every window of time, which begins with
// a token, no more are taken than the rate brings in it, and the burst, by the larger of the limits
// that were in force in it. One is in force until every node with a session has heard of the next.
// Clocks that run fast bring as much more.
type rateInfo struct {
	spans  []rateSpan
	behind bool // some node has yet to hear of the newest limits
	now    rateSpan

	stranded time.Duration // since when units have been where nobody uses them; 0: they are not
	takes    []taking
	waiting  int           // requests, once nothing goes wrong any more
	since    time.Duration // somebody has waited all the time, but for moments
	until    time.Duration // somebody waited last
	mixed    mixed
}

// mixed is when a request last began to wait for a rate that needs tokens of another one too. If it
// does not get these, a unit has gone to its node in vain.
type mixed struct {
	at    time.Duration
	other int // among the keys
}

// rateMoment is for how long nobody may wait while there is demand all the time.
const rateMoment = 100 * ms

// waits notes that one request more, or fewer, waits for a token.
func (r *rateInfo) waits(now time.Duration, by int) {
	if r.waiting == 0 && now-r.until > rateMoment {
		r.since = now
	}
	r.waiting += by
	r.until = now
}

// taking is some tokens, or bytes, that were taken.
type taking struct {
	at time.Duration
	n  float64
}

// rateStep is a taking, or a change of what is in force.
type rateStep struct {
	taking // of none: a change
	second float64
	burst  float64
}

// rateSpan is all windows that begin between two changes. excess is by how much the fullest of them
// has more than the rate brought.
type rateSpan struct {
	second, burst float64 // second is 0 where nothing is capped
	excess        float64
	at            time.Duration
}

// slackOf is what dividing buckets rounds away, in tokens or bytes.
func slackOf(r limit.Resource) float64 {
	if r == limit.Requests {
		return 1e-3
	}
	return 1
}

// grainsOf is how many grains a token, or a byte, has.
func grainsOf(r limit.Resource) float64 {
	if r == limit.Requests {
		return float64(limit.TokenGrains)
	}
	return 1
}

// inForce is what a key's rate comes to, by all who may take of it; 0: not capped by some.
func (u *upstream) inForce(k *keyInfo) (second, burst float64) {
	k.rate.behind = false
	worst := func(t *limit.Table) bool {
		l := t.Governing(k.key)
		if r := k.key.Resource; !l.Caps(r) || l.Report {
			return false
		} else {
			second = max(second, l.PerSecond(r)/grainsOf(r))
			burst = max(burst, float64(l.BurstGrains(r))/grainsOf(r))
		}
		return true
	}
	capped := worst(u.table)
	for _, x := range u.w.everybody() {
		if !x.running || x.node.Session(x.clock()).ID == 0 {
			continue
		}
		if t := x.node.Table(); t != nil && t.Index < u.table.Index {
			k.rate.behind = true
			capped = worst(t) && capped
		}
	}
	if !capped {
		return 0, 0
	}
	fast := int64(0)
	for _, ppm := range u.w.plan.Drift {
		fast = max(fast, ppm)
	}
	return second * max(1, (1+float64(fast)/1e6)*(1-coveredDrift/1e6)), burst
}

// coveredDrift is by how many parts per million buckets fill more slowly than they might: what
// clocks drift beyond that is more than the rule covers.
const coveredDrift = 1000

// rateChanged takes over what is in force now.
func (u *upstream) rateChanged(k *keyInfo) {
	second, burst := u.inForce(k)
	if r := k.rate; second != r.now.second || burst != r.now.burst {
		r.now = rateSpan{second: second, burst: burst}
		r.add(rateStep{taking: taking{at: u.w.now}, second: second, burst: burst})
	}
}

// followed takes note that a node goes by newer limits. They need not be the newest: its buckets
// fill by those that it passes through, however soon others come.
func (u *upstream) followed() {
	for i := range u.keys {
		if k := &u.keys[i]; k.rate != nil && k.rate.behind {
			u.rateChanged(k)
		}
	}
}

// took is a token of a key that a node takes.
func (u *upstream) took(c *conn, key limit.Key) {
	if u.takes(c.x, &u.keys[u.keyOf(key)], 1) {
		u.w.out.Tokens++
	}
}

// takes judges tokens, or bytes, of a key that a node takes; false: they don't count.
func (u *upstream) takes(x *process, k *keyInfo, n float64) bool {
	k.idleGrants = 0
	if k.rate == nil || u.table == nil || x.losing || u.isLost(k.key) {
		return false
	}
	if k.rate.behind {
		u.rateChanged(k)
	}
	if k.rate.now.second == 0 {
		return false
	}
	if id := x.node.Session(x.clock()).ID; u.w.expiry != lease.ExpiryClose {
		if _, open := u.w.raft.head.state.Session(id); !open || x.outlived {
			// It goes on without a lease, by choice. A log that was put back may have another
			// session of that number.
			return false
		}
	}
	t := taking{u.w.now, n}
	k.rate.takes = append(k.rate.takes, t)
	if over := k.rate.add(rateStep{taking: t}); over > slackOf(k.key.Resource) {
		u.w.fail(BreachOverRate, "node %s took %g of %s, which is %.3f more than %.3g a second and %.3g at once allow", x.name, n, k.key, over, k.rate.now.second, k.rate.now.burst)
	}
	return true
}

// isLost reports whether some node does not know yet that it has lost a grant of a key. It may have
// been granted the same again meanwhile: then it is not corrected, and what its bucket gathered
// beside that of whoever had the unit goes out with the next release.
func (u *upstream) isLost(key limit.Key) bool {
	for _, x := range u.w.everybody() {
		if x.losing && x.lostKey == key {
			return true
		}
	}
	return false
}

// judgeAnew forgets the windows of all rates. What a node took while it did not know of a grant
// that it had lost does not count, but its bucket went on filling beside that of whoever had the
// grant.
func (u *upstream) judgeAnew() {
	for i := range u.keys {
		if r := u.keys[i].rate; r != nil {
			r.spans = r.spans[:0]
			if r.now.second != 0 {
				r.add(rateStep{taking: taking{at: u.w.now}, second: r.now.second, burst: r.now.burst})
			}
		}
	}
}

// add takes a step over, and returns by how much the fullest window is above what may be.
func (r *rateInfo) add(s rateStep) (over float64) {
	last := len(r.spans) - 1
	if s.n == 0 {
		if s.second == 0 {
			r.spans = r.spans[:0] // no window that is not capped throughout is judged
			return 0
		}
		for i := range r.spans {
			p := &r.spans[i]
			p.pass(s.at)
			p.second, p.burst = max(p.second, s.second), max(p.burst, s.burst)
		}
		r.spans = append(r.spans, rateSpan{second: s.second, burst: s.burst, at: s.at})
		return 0
	}
	keep := r.spans[:0]
	for i, p := range r.spans {
		p.pass(s.at)
		if i == last {
			p.excess = max(p.excess, 0)
		} else if p.excess <= 0 {
			continue // what is above, is in a later window too
		}
		p.excess += s.n
		over = max(over, p.excess-p.burst)
		keep = append(keep, p)
	}
	r.spans = keep
	return over
}

func (p *rateSpan) pass(at time.Duration) {
	p.excess -= p.second * (at - p.at).Seconds()
	p.at = at
}

// used is how many tokens, or bytes, have been taken since a moment.
func (r *rateInfo) used(since time.Duration) (n float64) {
	for i := len(r.takes) - 1; i >= 0 && r.takes[i].at >= since; i-- {
		n += r.takes[i].n
	}
	return n
}

// watchRate judges a rate for which requests wait: most of it is used, unless they lack others too,
// and everybody has a turn.
func (u *upstream) watchRate(k *keyInfo) {
	r := k.rate
	if r.behind {
		u.rateChanged(k)
	}
	if r.now.second == 0 || r.waiting == 0 {
		return
	}
	window := u.w.patience() + 3*u.tokenTime(k)
	if u.w.now-max(r.since, u.finalFrom) > window && !u.lacksOthers(k, window) && !u.levelsDoubted(k, window) {
		u.w.out.Watched++
		if n, brings, ok := u.wellUsed(k, window, u.onTheWay(k)); !ok {
			u.w.fail(BreachStarved, "requests wait for tokens of %s, and of %.1f in the last %v only %g were used", k.key, brings, window, n)
		}
	}
	for _, c := range u.asked {
		if c.key != k.key {
			continue
		}
		token := u.tokenTime(k)
		for _, key := range c.tokenKeys() {
			token = max(token, u.tokenTime(&u.keys[u.keyOf(key)]))
		}
		turn := u.w.patience() + 3*token*time.Duration(len(u.w.plan.Workers)+3)
		if waited := u.w.now - c.asked; waited > turn {
			u.w.fail(BreachStarved, "node %s has waited %v for a token of %s, want at most %v", c.x.name, waited, k.key, turn)
		}
	}
}

// levelsDoubted reports whether, at the beginning of a window that ends now, the leader passed on
// no levels, because its log is an older copy: what a unit has gathered is lost with each
// hand-over. A leader knows of no limit that it is older than its own term.
func (u *upstream) levelsDoubted(k *keyInfo, window time.Duration) bool {
	x := u.w.nodes[0] // a log is only put back where there is one server
	if !x.doubted {
		return false
	}
	l, r := u.table.Governing(k.key), k.key.Resource
	fill := time.Duration(float64(l.BurstGrains(r)) / l.PerSecond(r) * 1.01 * float64(time.Second))
	began := x.mono() - drifted(window, x.ppm)
	since := x.born
	if lead := u.w.raft.lead; lead != nil {
		since = max(since, lead.since)
	}
	return began-since < u.w.plan.TTL.D()+leaseMargin+fill+leaseMargin
}

// tokenTime is how long a token takes to come, and to be used.
func (u *upstream) tokenTime(k *keyInfo) time.Duration {
	if k.rate.now.second == 0 {
		return 0
	}
	token := time.Duration(float64(time.Second) / k.rate.now.second)
	switch {
	case !u.goesRound(k.rate):
	case u.table.Governing(k.key).Queue.Enabled(): // a node whose turn it is may have no more use for its own
		token = max(token, u.w.handing())
	default: // who was refused may not come again while its turn is
		token += u.w.handing()
	}
	return token
}

// wellUsed reports whether most of a rate was used lately, but for tokens that are on the way.
func (u *upstream) wellUsed(k *keyInfo, window time.Duration, onTheWay float64) (n, brings float64, ok bool) {
	n, brings = k.rate.used(u.w.now-window), float64(window)/float64(u.tokenTime(k))
	return n, brings, n >= brings/2-onTheWay
}

// onTheWay is how many tokens of a rate for which requests wait may be on the way: one that is
// about to be taken, and where some of them need a unit of another rate too and both go round, one
// whose units have yet to meet on a node.
func (u *upstream) onTheWay(k *keyInfo) float64 {
	for _, c := range u.asked {
		if c.key != k.key || !u.goesRound(k.rate) {
			continue
		}
		for _, key := range c.tokenKeys() {
			if r := u.keys[u.keyOf(key)].rate; key != k.key && r.now.second != 0 && u.goesRound(r) {
				return 2
			}
		}
	}
	return 1
}

// goesRound reports whether a rate has fewer units than there are nodes.
func (u *upstream) goesRound(r *rateInfo) bool { return int(r.now.burst) < len(u.w.nodes) }

// lacksOthers reports whether a request that waits for a rate, or has lately, is under another one
// too, which is used well, or which it can't have for now.
func (u *upstream) lacksOthers(k *keyInfo, window time.Duration) bool {
	if m := k.rate.mixed; m.at > u.w.now-window {
		if u.lacking(&u.keys[m.other], window) {
			return true
		}
	}
	for _, c := range u.asked {
		if c.key != k.key {
			continue
		}
		for _, key := range c.tokenKeys() {
			if key != k.key && u.lacking(&u.keys[u.keyOf(key)], window) {
				return true
			}
		}
	}
	return false
}

// lacking reports whether a rate is used well, or its units have lost what they gathered.
func (u *upstream) lacking(k *keyInfo, window time.Duration) bool {
	if k.rate.now.second == 0 {
		return false
	}
	_, _, ok := u.wellUsed(k, window, 1)
	return ok || u.levelsDoubted(k, window)
}
