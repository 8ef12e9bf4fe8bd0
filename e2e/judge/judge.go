// Package judge holds a counting upstream's time line to what weir promises of a partition: never
// more connections than the limit, and none of a node that was cut off, nor a byte from it, once
// its lease has run out.
//
// It is pure: a case and a time line give the same verdict whenever it is asked, and the tests hand
// it time lines that must be found guilty.
package judge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/e2e/upstream"
)

// maxOfAKind bounds a verdict: one breach tends to bring its like.
const maxOfAKind = 4

// Case is one scenario as its test has run it.
type Case struct {
	Scenario string
	Limit    int               // connections, at every instant
	Begin    time.Time         // breaches are told in time since then
	Nodes    map[string]string // the nodes' names, by the address that they come from
	Cuts     []Cut
	// Blind are the times in which the observer itself got no processor, in order. An end that it
	// saw in one may have come as early as the beginning of that; and a node of the same machine,
	// which stood still as well, gets them on top of the time that its lease leaves it for its
	// fence. The limit is not relaxed by them.
	Blind []Interval
}

// Interval is a stretch of time.
type Interval struct{ From, To time.Time }

// Cut is the time in which a node couldn't renew its lease.
type Cut struct {
	Node   string
	At     time.Time // nothing gets through from here on
	TTL    time.Duration
	Guard  time.Duration // how long before its deadline a node begins to fence
	Healed time.Time
	// Gone is set where the node was cut off from the upstream as well, which then can't see the
	// node end its connections: when the node itself was seen to have none left. Those that it had
	// count until then.
	Gone time.Time
}

// Deadline is when the lease that the node had at the cut has run out for certain, as its last
// answered keep-alive was sent before. It is put off by the time in which the machine stood still
// since the node should have begun to fence.
func (c Cut) Deadline(blind []Interval) time.Time {
	deadline := c.At.Add(c.TTL)
	begins := deadline.Add(-c.Guard)
	for _, b := range blind {
		if b.To.After(begins) && b.From.Before(deadline) {
			deadline = deadline.Add(b.To.Sub(latest(b.From, begins)))
		}
	}
	return deadline
}

// Life is one connection at the upstream.
type Life struct {
	Conn   uint64
	Node   string
	Opened time.Time // zero: before the time line
	Ended  time.Time // zero: still open
	Heard  time.Time // its last byte; zero: none, or still open
}

// Breach is a promise that was not kept.
type Breach struct {
	Kind     Kind
	Scenario string
	At       time.Duration // since the scenario's beginning
	What     string
	Conns    []Life
	begin    time.Time
}

func (b Breach) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s: at %v: %s", b.Scenario, b.At.Round(time.Millisecond), b.What)
	for _, l := range b.Conns {
		fmt.Fprintf(&s, "\n  connection %d of node %s, opened at %s, ended at %s, last heard at %s",
			l.Conn, l.Node, since(b.begin, l.Opened), since(b.begin, l.Ended), since(b.begin, l.Heard))
	}
	return s.String()
}

func since(begin, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Sub(begin).Round(time.Millisecond).String()
}

// Verdict is what a time line shows.
type Verdict struct {
	Breaches []Breach // at most a few of each kind
	Peak     int
	// LastEnd is when the last connection ended that a cut node had opened before its lease ran
	// out; zero if there was none.
	LastEnd time.Time
	// Full is the first time after the first cut at which the nodes that were not cut off had the
	// whole limit in use; zero if they never had.
	Full time.Time
}

// Try judges a complete time line.
func Try(c Case, events []upstream.Event) Verdict {
	lives := c.lives(events)
	var v Verdict
	c.checkPeak(&v, lives)
	for _, cut := range c.Cuts {
		c.checkCut(&v, cut, lives)
	}
	if len(c.Cuts) > 0 {
		c.checkReuse(&v, lives)
	}
	return v
}

// lives pairs openings with ends, in the order of opening.
func (c Case) lives(events []upstream.Event) []Life {
	var order []*Life
	byConn := map[uint64]*Life{}
	for _, e := range events {
		l := byConn[e.Conn]
		if l == nil {
			l = &Life{Conn: e.Conn, Node: cmp.Or(c.Nodes[e.Peer], e.Peer)}
			byConn[e.Conn] = l
			order = append(order, l)
		}
		if e.Opened {
			l.Opened = e.At
		} else {
			l.Ended, l.Heard = latest(l.Opened, c.earliest(e.At)), c.earliest(e.Heard)
		}
	}
	lives := make([]Life, len(order))
	for i, l := range order {
		lives[i] = *l
	}
	return lives
}

// earliest is when what was seen at a time may have happened.
func (c Case) earliest(at time.Time) time.Time {
	for _, b := range c.Blind {
		if !at.Before(b.From) && !at.After(b.To) {
			return b.From
		}
	}
	return at
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Kind is which promise a breach breaks.
type Kind uint8

// The kinds.
const (
	OverLimit   Kind = iota + 1 // more connections than the limit
	OpenLate                    // a connection of a node whose lease has run out
	HeardLate                   // a byte on one
	OpenedLate                  // a new one
	ReusedEarly                 // others have the whole limit while a node that was cut off has something left
)

func (v *Verdict) add(c Case, k Kind, at time.Time, conns []Life, format string, args ...any) {
	if v.count(k) < maxOfAKind {
		v.Breaches = append(v.Breaches, Breach{
			Kind: k, Scenario: c.Scenario, At: at.Sub(c.Begin), What: fmt.Sprintf(format, args...), Conns: conns, begin: c.Begin,
		})
	}
}

func (v *Verdict) count(k Kind) (n int) {
	for _, b := range v.Breaches {
		if b.Kind == k {
			n++
		}
	}
	return n
}

// step is a change in what is open.
type step struct {
	at   time.Time
	life Life
	by   int
}

// steps are the lives' openings and ends by time, ends first where they are equal.
func (c Case) steps(lives []Life) []step {
	var steps []step
	for _, l := range lives {
		end := c.endOf(l)
		if end.Equal(l.Opened) {
			continue // for all that is known, it was open for no time
		}
		steps = append(steps, step{at: l.Opened, life: l, by: 1})
		if !end.IsZero() {
			steps = append(steps, step{at: end, life: l, by: -1})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), a.by-b.by) })
	return steps
}

// endOf is when a connection counts no more: at its end, or, where its node's end can't be seen,
// when the node was found to have none left.
func (c Case) endOf(l Life) time.Time {
	for _, cut := range c.Cuts {
		if !cut.Gone.IsZero() && cut.Node == l.Node && l.Opened.Before(cut.Gone) && c.endsAfter(l, cut.Gone) {
			return cut.Gone
		}
	}
	return l.Ended
}

func (c Case) endsAfter(l Life, at time.Time) bool { return l.Ended.IsZero() || l.Ended.After(at) }

// stillOpen reports whether a connection opened before a time counts then.
func (c Case) stillOpen(l Life, at time.Time) bool {
	end := c.endOf(l)
	return end.IsZero() || end.After(at)
}

// checkPeak walks through all instants.
func (c Case) checkPeak(v *Verdict, lives []Life) {
	open := map[uint64]Life{}
	over := false // tell of each excess once, at its beginning
	for _, s := range c.steps(lives) {
		if s.by < 0 {
			delete(open, s.life.Conn)
		} else {
			open[s.life.Conn] = s.life
		}
		v.Peak = max(v.Peak, len(open))
		if len(open) > c.Limit && !over {
			v.add(c, OverLimit, s.at, sorted(open), "%d connections are open; the limit is %d", len(open), c.Limit)
		}
		over = len(open) > c.Limit
	}
}

func sorted(open map[uint64]Life) []Life {
	var lives []Life
	for _, l := range open {
		lives = append(lives, l)
	}
	slices.SortFunc(lives, func(a, b Life) int { return cmp.Compare(a.Conn, b.Conn) })
	return lives
}

// checkCut holds the node to its deadline: from then until the heal it has nothing open, says
// nothing and opens nothing. A heal before the deadline leaves nothing to check, because the lease
// may have been renewed.
func (c Case) checkCut(v *Verdict, cut Cut, lives []Life) {
	deadline := cut.Deadline(c.Blind)
	inTime := cut.Healed.IsZero() || cut.Healed.After(deadline)
	for _, l := range lives {
		if l.Node != cut.Node || !cut.Healed.IsZero() && l.Opened.After(cut.Healed) {
			continue
		}
		if inTime {
			c.checkLife(v, cut, l)
		}
		if end := c.endOf(l); l.Opened.Before(deadline) && c.endsAfter(l, cut.At) && end.After(v.LastEnd) {
			v.LastEnd = end
		}
	}
}

// checkLife is checkCut for one connection, opened before the heal.
func (c Case) checkLife(v *Verdict, cut Cut, l Life) {
	deadline, conns := cut.Deadline(c.Blind), []Life{l}
	late := func(at time.Time) time.Duration { return at.Sub(cut.At).Round(time.Millisecond) }
	switch {
	case l.Opened.After(deadline):
		v.add(c, OpenedLate, l.Opened, conns, "node %s, cut off %v ago, opens a connection; its lease is %v",
			cut.Node, late(l.Opened), cut.TTL)
		return
	case c.stillOpen(l, deadline):
		v.add(c, OpenLate, deadline, conns, "node %s, cut off %v ago, has a connection open; its lease is %v",
			cut.Node, cut.TTL, cut.TTL)
	}
	if l.Heard.After(deadline) {
		v.add(c, HeardLate, l.Heard, conns, "node %s, cut off %v ago, sends on an old connection; its lease is %v",
			cut.Node, late(l.Heard), cut.TTL)
	}
}

// checkReuse finds when the others first had the whole limit, which must be after all that the cut
// nodes had.
func (c Case) checkReuse(v *Verdict, lives []Life) {
	first := c.Cuts[0].At
	open := map[uint64]Life{}
	for _, s := range c.steps(lives) {
		if slices.ContainsFunc(c.Cuts, func(cut Cut) bool { return cut.Node == s.life.Node }) {
			continue
		}
		if s.by < 0 {
			delete(open, s.life.Conn)
		} else {
			open[s.life.Conn] = s.life
		}
		if len(open) < c.Limit || s.at.Before(first) {
			continue
		}
		v.Full = s.at
		if !v.LastEnd.IsZero() && v.LastEnd.After(v.Full) {
			v.add(c, ReusedEarly, v.Full, sorted(open), "the others hold the whole limit %v before the last connection of a node that was cut off has ended",
				v.LastEnd.Sub(v.Full).Round(time.Millisecond))
		}
		return
	}
}
