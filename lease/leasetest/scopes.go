package leasetest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// subject is what a worker's requests are about.
func (k Worker) subject() (limit.Subject, error) { return subjectOf(k.Host, k.Client, k.User) }

func subjectOf(host, client, user string) (s limit.Subject, err error) {
	s.Host, err = limit.ParseTarget(host, 443)
	if err == nil && client != "" {
		var a netip.Addr
		a, err = netip.ParseAddr(client)
		s.Client = limit.ClientOf(a)
	}
	s.User = user
	return s, err
}

// scoped reports whether requests are ever limited elsewhere than at a host, or by a rate.
func (p *Plan) scoped() bool {
	more := func(l Limit) bool { return l.Scope != "" && l.Connections >= 0 || l.Requests != "" }
	return slices.ContainsFunc(p.Limits, more) ||
		slices.ContainsFunc(p.Writes, func(x Write) bool { return slices.ContainsFunc(x.Limits, more) }) ||
		slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.Limit != nil && more(*f.Limit) })
}

// scopes adds, to about half of the plans, limits of the other scopes, rates, and limits that only
// report, workers who run into them, and changes of all that.
func (g *generator) scopes() {
	d := newDice(g.p.Seed, 11)
	if d.one(2) {
		return
	}
	clients, users := 1+d.below(3), 1+d.below(2)
	for i := range g.p.Workers {
		k := &g.p.Workers[i]
		k.Client, k.User = fmt.Sprintf("10.0.0.%d", 1+d.below(clients)), fmt.Sprintf("u%d", d.below(users))
	}
	var added []Limit
	for range 1 + d.below(3) {
		added = append(added, g.scope(&d))
	}
	if !slices.ContainsFunc(g.p.Faults, func(f Fault) bool { return f.Kind == FaultPutBack }) {
		for range d.below(4) {
			g.scopeChange(&d, added[d.below(len(added))])
		}
	}
	slices.SortStableFunc(g.p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
	if slices.ContainsFunc(added, func(l Limit) bool { return l.Requests != "" }) {
		g.hurry(&d)
	}
}

// scope adds one limit, or a rate to one that is there.
func (g *generator) scope(d *dice) Limit {
	l := pick(d,
		Limit{Scope: "total"}, Limit{Scope: "client", Pattern: "*"}, Limit{Scope: "client", Pattern: "10.0.0.0/24", Shared: true},
		Limit{Scope: "client", Pattern: "10.0.0.1"}, Limit{Scope: "user", Pattern: "*"}, Limit{Scope: "user", Pattern: "u0"})
	if d.one(4) {
		l = Limit{Pattern: "up"}
	}
	if i := slices.IndexFunc(g.p.Limits, func(o Limit) bool { return o.Scope == l.Scope && o.Pattern == l.Pattern }); i >= 0 {
		g.p.Limits[i].rated(d)
		return g.p.Limits[i]
	}
	l = l.numbered(d)
	g.p.Limits = append(g.p.Limits, l)
	return l
}

// numbered gives a limit other numbers.
func (l Limit) numbered(d *dice) Limit {
	l.Connections, l.Requests, l.Burst, l.Timeout, l.Size, l.Evict = 1+int64(d.below(6)), "", 0, 0, 0, false
	if d.one(2) {
		l.rated(d)
		if d.one(2) {
			l.Connections = limit.Unlimited
		}
	}
	l.Report = d.one(8)
	if d.one(2) {
		l.Timeout, l.Size = Duration(d.between(500*ms, 5*second)), 1+d.below(20)
	}
	return l
}

func (l *Limit) rated(d *dice) {
	l.Requests = pick(d, "0.5/s", "60/m", "2/s", "4/s", "8/s")
	l.Burst = 1 + int64(d.below(4))
	if d.one(4) {
		l.Burst = 5 + int64(d.below(10))
	}
}

// scopeChange writes a limit anew, removes it, or toggles what it does.
func (g *generator) scopeChange(d *dice, l Limit) {
	at := d.upTo(g.p.Length.D())
	change := l
	switch d.below(5) {
	case 0:
		change = Limit{Scope: l.Scope, Pattern: l.Pattern, Connections: limit.Unlimited, Delete: true}
	case 1:
		change.Report = !change.Report
	case 2:
		change = l.numbered(d)
		change.Evict = change.Connections >= 0 && d.one(2)
	default:
		change = l.numbered(d)
	}
	g.add(at, Fault{Kind: FaultLimit, Limit: &change})
	if change.Delete || d.one(2) {
		g.add(at+d.upTo(2*second), Fault{Kind: FaultLimit, Limit: &l})
	}
}

// hurry lets some workers come so often that a rate is in their way.
func (g *generator) hurry(d *dice) {
	for i := range g.p.Workers {
		if k := &g.p.Workers[i]; d.one(2) {
			k.Hold, k.Pause = Duration(d.scale(5*ms, 100*ms)), Duration(d.scale(60*ms, 400*ms))
		}
	}
}
