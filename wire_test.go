package weir

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy"
)

// What the state machine refuses is in the log all the same: a leader that tries again at once
// would fill it.
func TestFoundingPausesAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		tries := 0
		refuse := func() error { tries++; return errors.New("refused") }
		if foundCluster(ctx, refuse, func() bool { return false }, hclog.NewNullLogger()) {
			t.Error("a cluster was founded that was refused")
		}
		if most := int(time.Minute/foundPause) + 1; tries > most {
			t.Errorf("%d tries in a minute, want at most %d", tries, most)
		}
		founded := false
		found := func() error { founded = true; return nil }
		if !foundCluster(t.Context(), found, func() bool { return founded }, hclog.NewNullLogger()) {
			t.Error("no cluster was founded")
		}
	})
}

// Before something new is written, all servers must know it. Once it is in the state they do, and
// one that can't be asked stops no grant of it.
func TestNewEntriesWaitForAllServers(t *testing.T) {
	store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	var index uint64
	apply := func(c fsm.Command) {
		t.Helper()
		index++
		if r := store.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: fsm.Encode(c)}).(*fsm.Result); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	var asked uint32
	older := func(version uint32) error { asked = version; return cluster.ErrMixedVersions }
	check := func(what string, c fsm.Command, want uint32) {
		t.Helper()
		asked = 0
		if err := checkVersion(store, c, older); asked != want || errors.Is(err, cluster.ErrMixedVersions) != (want != 0) {
			t.Errorf("%s: version %d was asked for, want %d; %v", what, asked, want, err)
		}
	}
	host, err := limit.ParsePattern("a.example")
	if err != nil {
		t.Fatal(err)
	}
	total, err := limit.ScopeTotal.ParsePattern("")
	if err != nil {
		t.Fatal(err)
	}
	rate := limit.Rate{Thousandths: 1000, Per: time.Second, Burst: 1}
	rated := &fsm.PutLimit{Limit: limit.Limit{Pattern: total, Connections: limit.Unlimited, Requests: rate, Source: limit.SourceAPI}}
	plain := &fsm.PutLimit{Limit: limit.Limit{Pattern: host, Connections: 1, Source: limit.SourceAPI}}
	key := limit.Key{Scope: limit.ScopeTotal, Resource: limit.Requests}
	grant := &fsm.Adjust{Term: 1, Batch: 1, Adjustments: []fsm.Adjustment{{Session: 2, Key: key, Delta: limit.Shares}}}
	back := &fsm.Adjust{Term: 1, Batch: 2, Adjustments: []fsm.Adjustment{{Session: 2, Key: key, Delta: -limit.Shares}}}

	check("a limit of connections", plain, 0)
	check("restored limits", &fsm.RestoreLimits{}, 2)
	check("a rate", rated, 3)
	apply(rated)
	apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "i"})
	check("another rate", rated, 0)
	check("a grant of it", grant, 0)
	apply(grant)
	apply(&fsm.DeleteLimit{Pattern: total})
	check("its release, once the limit is gone", back, 0)
	apply(back)
	check("forgetting it", &fsm.Adjust{Term: 1, Batch: 3, Forget: []limit.Key{key}}, 0)
	apply(&fsm.Adjust{Term: 1, Batch: 3, Forget: []limit.Key{key}})
	check("a rate, once nothing is left of the first", rated, 3)
}

// Every default reaches the proxy.
func TestDefaultPolicy(t *testing.T) {
	want := proxy.Policy{
		Protocols:        proxy.HTTP | proxy.SOCKS5,
		RejectStatus:     503,
		DialTimeout:      10 * time.Second,
		HeaderTimeout:    10 * time.Second,
		HalfCloseTimeout: 10 * time.Second,
		ResponseTimeout:  15 * time.Minute,
		AllowClients:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		DenyDestinations: []netip.Prefix{
			netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
			netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"),
		},
	}
	got := policy(config.Default(true))
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(proxy.Policy{}), cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// The proxy refuses a request whose bytes could not move, because its node has no lease for them. A
// permit's bytes do not pass the node.
func TestNoLeaseForBandwidth(t *testing.T) {
	l := limit.Limit{Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Download: 1 << 20}, Source: limit.SourceConfig}
	var err error
	if l.Pattern, err = limit.ParsePattern("up.example"); err != nil {
		t.Fatal(err)
	}
	m := lease.NewManager(lease.ManagerConfig{Name: "a", Clock: lease.NewSystemClock(), Log: hclog.NewNullLogger(),
		Limits: limit.NewTable(1, 1, []limit.Limit{l})})
	for host, want := range map[string]error{"up.example": lease.ErrNoLease, "other.example": nil} {
		s := &limit.Subject{}
		if s.Host, err = limit.ParseTarget(host, 443); err != nil {
			t.Fatal(err)
		}
		if err := (admitter{m}).Take(t.Context(), s, 0); !errors.Is(err, want) {
			t.Errorf("a request for %s: %v; want %v", host, err, want)
		}
		if err := m.Take(t.Context(), s, 0); err != nil {
			t.Errorf("a permit for %s: %v", host, err)
		}
	}
}
