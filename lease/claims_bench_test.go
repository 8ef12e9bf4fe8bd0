package lease

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// cheapClock costs nothing to read, and goes on by 200 ns each time.
type cheapClock struct{ now time.Duration }

// Now implements [Clock].
func (c *cheapClock) Now() time.Duration {
	c.now += 200
	return c.now
}

// Wall implements [Clock].
func (c *cheapClock) Wall() time.Duration { return c.now }

// eachClock runs a benchmark with the machine's clock, and with one that costs nothing: reading the
// time is a good part of an admission.
func eachClock(b *testing.B, name string, f func(b *testing.B, clock Clock)) {
	run := func(name string, clock Clock) {
		b.Run(name, func(b *testing.B) {
			busy := kit.Busy(func() { f(b, clock) })
			b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
	run(name, NewSystemClock())
	run(name+"/without the clock", &cheapClock{time.Hour})
}

// heldUnits is a node in a session, with plenty in hand of some limits.
func heldUnits(b testing.TB, clock Clock, limits ...limit.Limit) *Manager {
	b.Helper()
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	m.node.setLimits(0, limit.NewTable(1, 1, limits))
	m.node.sess.begin(1, 1, time.Hour, clock.Now())
	m.node.stream.phase = streamWelcome
	m.node.openGate()
	return m
}

// heldClaims returns what admits a request with its upstream connection, and gives all back, on a
// node that has plenty in hand.
func heldClaims(b testing.TB, clock Clock, limits ...limit.Limit) (admit func()) {
	b.Helper()
	m := heldUnits(b, clock, limits...)
	for _, key := range []limit.Key{
		limit.HostConnections("api.example.com"), {Scope: limit.ScopeTotal, Resource: limit.Connections},
		{Scope: limit.ScopeClient, Resource: limit.Connections, Name: "10.0.0.7"},
		{Scope: limit.ScopeUser, Resource: limit.Connections, Name: "nightly"},
	} {
		if m.node.table.Load().Governing(key) != nil {
			m.node.grant(key, 1000)
		}
	}
	h, r, s, ctx := newHolder(), new(Request), new(Slot), context.Background()
	return func() {
		if err := m.Begin(ctx, r, &benchSubject, h); err != nil {
			b.Fatal(err)
		}
		if err := m.Acquire(ctx, s, benchSubject.Host, h); err != nil {
			b.Fatal(err)
		}
		s.Release()
		r.End()
	}
}

// heldRates is such a node with a limit on a rate in each of some scopes, all of which it holds,
// with full buckets. set gives each limit its rate.
func heldRates(b testing.TB, clock Clock, of limit.Resource, scopes []limit.Scope, set func(*limit.Limit)) *Manager {
	b.Helper()
	var limits []limit.Limit
	for _, scope := range scopes {
		pattern := "*"
		if scope.Bare() {
			pattern = ""
		}
		l := benchLimit(b, scope, pattern)
		l.Connections = limit.Unlimited
		set(&l)
		limits = append(limits, l)
	}
	m := heldUnits(b, clock, limits...)
	for _, scope := range scopes {
		_, name := m.Table().Find(scope, &benchSubject)
		key := limit.Key{Scope: scope, Resource: of, Name: name}
		m.node.grant(key, limit.Shares)
		m.node.lookup(key).fillUp(m.cfg.Clock.Now(), m.Table().Governing(key).BurstGrains(of))
	}
	return m
}

func benchLimit(b testing.TB, scope limit.Scope, pattern string) limit.Limit {
	b.Helper()
	p, err := scope.ParsePattern(pattern)
	if err != nil {
		b.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: 1000, Source: limit.SourceConfig}
}

var benchSubject = limit.Subject{
	Client: limit.ClientOf(netip.MustParseAddr("10.0.0.7")), User: "nightly",
	Host: limit.Target{Host: "api.example.com", Port: 443},
}

// benchScopes are those of none, one and four limits.
var benchScopes = [][]limit.Scope{nil, {limit.ScopeHost}, {limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost}}

// A request with its upstream connection, admitted and given back: with one claim, with four, and
// without a limit.
func BenchmarkClaims(b *testing.B) {
	host, total := benchLimit(b, limit.ScopeHost, "*"), benchLimit(b, limit.ScopeTotal, "")
	client, user := benchLimit(b, limit.ScopeClient, "*"), benchLimit(b, limit.ScopeUser, "*")
	for _, c := range []struct {
		name   string
		limits []limit.Limit
	}{{"none", nil}, {"1", []limit.Limit{host}}, {"4", []limit.Limit{host, total, client, user}}} {
		eachClock(b, c.name, func(b *testing.B, clock Clock) {
			admit := heldClaims(b, clock, c.limits...)
			b.ReportAllocs()
			for b.Loop() {
				admit()
			}
		})
	}
}

// A token that the node has in hand, of one limit and of four.
func BenchmarkTake(b *testing.B) {
	rate, err := limit.ParseRate("10000000/s", 0)
	if err != nil {
		b.Fatal(err)
	}
	for _, scopes := range benchScopes {
		eachClock(b, fmt.Sprint(len(scopes)), func(b *testing.B, clock Clock) {
			m := heldRates(b, clock, limit.Requests, scopes, func(l *limit.Limit) { l.Requests = rate })
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Take(ctx, &benchSubject, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
