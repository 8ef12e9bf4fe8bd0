package resolve

import (
	"testing"
	"time"
)

func TestEnough(t *testing.T) {
	now := time.Unix(1000, 0)
	have := &result{kind: kindAddrs, addrs: addrs("10.0.0.1"), ttl: time.Minute}
	no := &result{kind: kindNoData}
	none := &result{kind: kindNoName}
	failed := &result{kind: kindFailed}
	for _, c := range []struct {
		name      string
		four, six *result
		eager     family // -1: none
		after     time.Duration
		done      bool
		until     time.Duration
	}{
		{"nothing", nil, nil, -1, time.Hour, false, 0},
		{"both", have, have, -1, 0, true, 0},
		{"both without addresses", no, failed, -1, 0, true, 0},
		{"A first", have, nil, -1, 0, false, resolutionDelay},
		{"A first, 50 ms ago", have, nil, -1, resolutionDelay, true, resolutionDelay},
		{"AAAA first", nil, have, -1, 0, false, resolutionDelay},
		{"A, and AAAA is of no use", have, nil, six, 0, true, 0},
		{"AAAA, and A is eagerly left", nil, have, four, 0, true, 0},
		{"no data yet, and AAAA is of no use", no, nil, six, time.Hour, false, 0},
		{"no data, the other may come", no, nil, -1, time.Hour, false, 0},
		{"failed, the other may come", nil, failed, -1, time.Hour, false, 0},
		{"no such name", none, nil, -1, 0, false, noNameDelay},
		{"no such name, long ago", nil, none, -1, noNameDelay, true, noNameDelay},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gathering{results: [families]*result{c.four, c.six}, since: now}
			if c.eager >= 0 {
				g.eager[c.eager] = true
			}
			done, until := g.enough(now.Add(c.after))
			want := time.Time{}
			if c.until > 0 {
				want = now.Add(c.until)
			}
			if done != c.done || !until.Equal(want) {
				t.Errorf("enough: %v, until %v; want %v, %v", done, until, c.done, want)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	a4 := &result{kind: kindAddrs, addrs: addrs("10.0.0.1"), ttl: time.Minute}
	a6 := &result{kind: kindAddrs, addrs: addrs("2a00::1"), ttl: 20 * time.Second}
	zero := &result{kind: kindAddrs, addrs: addrs("10.0.0.1")}
	no := &result{kind: kindNoData, ttl: 2 * time.Second}
	none := &result{kind: kindNoName, ttl: time.Hour}
	failed, silent := &result{kind: kindFailed}, &result{kind: kindSilent}
	for _, c := range []struct {
		name      string
		four, six *result
		shared    bool
		kind      kind
		n         int
		ttl       time.Duration
	}{
		{"both", a4, a6, false, kindAddrs, 2, 20 * time.Second},
		{"one, the other has none", a4, no, false, kindAddrs, 1, time.Minute},
		{"one, the name does not exist for the other", a4, none, false, kindAddrs, 1, time.Minute},
		{"one, the other failed", failed, a6, false, kindAddrs, 1, 20 * time.Second},
		{"one, the other is late", a4, nil, false, kindAddrs, 1, time.Minute},
		{"TTL 0", zero, no, false, kindAddrs, 1, 0},
		{"TTL 0, shared", zero, no, true, kindAddrs, 1, sharedTTL},
		{"no data", no, no, false, kindNoData, 0, 2 * time.Second},
		{"no such name", none, no, false, kindNoName, 0, maxNegativeTTL},
		{"no such name, the other failed", failed, none, false, kindNoName, 0, maxNegativeTTL},
		{"no data and failed", no, failed, false, kindFailed, 0, errorTTL},
		{"no data and silent", silent, no, false, kindSilent, 0, errorTTL},
		{"failed and silent", silent, failed, false, kindSilent, 0, errorTTL},
		{"nothing", nil, nil, false, kindSilent, 0, errorTTL},
		{"no data and nothing", no, nil, false, kindSilent, 0, errorTTL},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gathering{results: [families]*result{c.four, c.six}}
			if o := g.outcome(c.shared); o.kind != c.kind || len(o.addrs) != c.n || o.ttl != c.ttl {
				t.Errorf("kind %d, %v, TTL %v; want %d, %d addresses, %v", o.kind, o.addrs, o.ttl, c.kind, c.n, c.ttl)
			}
		})
	}
}
