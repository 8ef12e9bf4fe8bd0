package weir_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
)

// However many ask at once, never more than the limit hold a permit.
func TestLimitHoldsThroughAcquire(t *testing.T) {
	t.Parallel()
	const most, programs, times = 3, 20, 50
	l := weir.KeyLimit("k", most)
	l.Queue = &weir.Queue{Timeout: weir.Duration(time.Minute), Size: programs}
	n := start(t, weir.Config{Limits: []weir.Limit{l}})
	var now, peak atomic.Int64
	var wg sync.WaitGroup
	for range programs {
		wg.Go(func() {
			for range times {
				p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
				if err != nil {
					t.Error(err)
					return
				}
				for at, seen := now.Add(1), peak.Load(); at > seen && !peak.CompareAndSwap(seen, at); seen = peak.Load() {
				}
				now.Add(-1)
				p.Release()
			}
		})
	}
	wg.Wait()
	if peak.Load() > most {
		t.Errorf("%d held a permit at once, %d are allowed", peak.Load(), most)
	}
}

// A permit for a host and a connection through the proxy share one count.
func TestPermitAndProxyShareACount(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	n := start(t, weir.Config{Proxy: "127.0.0.1:0", Limits: []weir.Limit{weir.HostLimit("127.0.0.1", 1)}})
	p, err := n.Acquire(t.Context(), weir.Subject{Host: up.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Active("127.0.0.1"); got != 1 {
		t.Errorf("%d connections are active", got)
	}
	if status, _ := get(t, n, up.URL); status != 503 {
		t.Errorf("with the host's only slot taken: %d", status)
	}
	p.Release()
	if status, _ := get(t, n, up.URL); status != 200 {
		t.Errorf("once it is released: %d", status)
	}
}

func TestAcquireErrors(t *testing.T) {
	t.Parallel()
	queued := weir.KeyLimit("queued", 1)
	queued.Queue = &weir.Queue{Timeout: weir.Duration(200 * time.Millisecond), Size: 1}
	n := start(t, weir.Config{Limits: []weir.Limit{
		weir.HostLimit("blocked.test", 0), weir.KeyLimit("one", 1), queued,
		{Scope: "key", Pattern: "slow", Requests: &weir.Rate{Rate: "1/h"}},
		{Scope: "client", Pattern: "10.0.0.0/8", Connections: new(int64(0)), Shared: true},
		{Scope: "user", Pattern: "nobody", Connections: new(int64(0))},
	}})
	for _, key := range []string{"one", "queued", "slow"} {
		p, err := n.Acquire(t.Context(), weir.Subject{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Release)
	}
	const slowest = time.Hour + 4*time.Second // a bucket fills slower by a thousandth than it might
	for _, c := range []struct {
		subject    weir.Subject
		why        error
		scope, key string // of a LimitError
		again      bool   // RetryAfter is known
	}{
		{weir.Subject{Host: "Blocked.test.:443"}, weir.ErrBlocked, "host", "blocked.test", false},
		{weir.Subject{Key: "one"}, weir.ErrOverLimit, "key", "one", false},
		{weir.Subject{Key: "queued"}, weir.ErrQueueTimeout, "key", "queued", false},
		{weir.Subject{Key: "slow"}, weir.ErrOverLimit, "key", "slow", true},
		{weir.Subject{Client: netip.MustParseAddr("::ffff:10.1.2.3")}, weir.ErrBlocked, "client", "10.0.0.0/8", false},
		{weir.Subject{Host: "open.test", User: "nobody"}, weir.ErrBlocked, "user", "nobody", false},
		{weir.Subject{}, weir.ErrSubject, "", "", false},
		{weir.Subject{Host: "no host"}, weir.ErrSubject, "", "", false},
		{weir.Subject{Host: "a.test:0"}, weir.ErrSubject, "", "", false},
		{weir.Subject{Key: "line\nline"}, weir.ErrSubject, "", "", false},
		{weir.Subject{User: "ada:lovelace"}, weir.ErrSubject, "", "", false},
		{weir.Subject{Key: strings.Repeat("x", 256)}, weir.ErrSubject, "", "", false},
	} {
		_, err := n.Acquire(t.Context(), c.subject)
		if !errors.Is(err, c.why) {
			t.Errorf("%+v: %v; want %v", c.subject, err, c.why)
			continue
		}
		var over *weir.LimitError
		if errors.As(err, &over) != (c.scope != "") {
			t.Errorf("%+v: %T", c.subject, err)
			continue
		}
		if over == nil {
			continue
		}
		after, ok := over.RetryAfter()
		if over.Scope != c.scope || over.Key != c.key || ok != c.again || ok && (after <= 0 || after > slowest) {
			t.Errorf("%+v: scope %s, key %s, again after %v %v; want %+v", c.subject, over.Scope, over.Key, after, ok, c)
		}
	}
	// A context that has ended takes nothing, whether or not a limit is in the way.
	for _, s := range []weir.Subject{{Key: "queued"}, {Key: "free"}, {Host: "unlimited.test"}} {
		if _, err := n.Acquire(ended(), s); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v with a context that has ended: %v", s, err)
		}
	}
	if _, err := n.Hold(ended(), netip.Addr{}, "free", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Hold with a context that has ended: %v", err)
	}
	// Whoever was refused by one limit holds nothing of the others.
	if got := n.Active("open.test"); got != 0 {
		t.Errorf("%d connections are active at a host that a user was kept from", got)
	}
}

// A program's server is not asked of a proxy: scope total does not count what it holds.
func TestHold(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Limits: []weir.Limit{
		{Scope: "total", Connections: new(int64(0))},
		{Scope: "client", Pattern: "*", Connections: new(int64(1))}, weir.KeyLimit("server", 2),
	}})
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	hold := func(client netip.Addr, key string) func() {
		t.Helper()
		release, err := n.Hold(t.Context(), client, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	refused := func(client netip.Addr, key, scope string) {
		t.Helper()
		_, err := n.Hold(t.Context(), client, key, nil)
		var over *weir.LimitError
		var again interface{ RetryAfter() (time.Duration, bool) }
		if !errors.As(err, &over) || !errors.As(err, &again) || over.Scope != scope {
			t.Errorf("%v %q: %v; want a limit of scope %s", client, key, err, scope)
		}
	}
	first, second := hold(a, "server"), hold(b, "server")
	refused(a, "server", "client")
	refused(c, "server", "key")
	hold(c, "")()
	link := netip.MustParseAddr("fe80::1")
	end := hold(link.WithZone("eth0"), "")
	refused(link.WithZone("eth1"), "", "client") // a zone is of one machine
	end()
	hold(netip.Addr{}, "")()
	refused(netip.Addr{}, "server", "key")
	first()
	first()
	hold(a, "server")()
	second()
}

// Whoever has waited in a queue until its own deadline was over a limit: the cluster did answer.
func TestDeadlineInTheQueue(t *testing.T) {
	t.Parallel()
	slots, rate := weir.KeyLimit("slots", 1), weir.Limit{Scope: "key", Pattern: "rate", Requests: &weir.Rate{Rate: "1/h"}}
	slots.Queue = &weir.Queue{Timeout: weir.Duration(time.Hour), Size: 10}
	rate.Queue = slots.Queue
	n := start(t, weir.Config{Limits: []weir.Limit{slots, rate}})
	hold := func(ctx context.Context, s weir.Subject) error {
		_, err := n.Hold(ctx, netip.Addr{}, s.Key, nil)
		return err
	}
	acquire := func(ctx context.Context, s weir.Subject) error { _, err := n.Acquire(ctx, s); return err }
	for key, asks := range map[string][]func(context.Context, weir.Subject) error{"slots": {acquire, hold}, "rate": {acquire}} {
		p, err := n.Acquire(t.Context(), weir.Subject{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		for _, ask := range asks {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			err := ask(ctx, weir.Subject{Key: key})
			cancel()
			var over *weir.LimitError
			if !errors.As(err, &over) || over.Key != key || !errors.Is(err, weir.ErrQueueTimeout) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", key, err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			if err := ask(ctx, weir.Subject{Key: key}); !errors.Is(err, context.Canceled) || errors.As(err, &over) {
				t.Errorf("%s, by who went away: %v", key, err)
			}
		}
	}
}

// When draining begins, those in a queue are sent away, and those that hold something keep it. Once
// it has ended, the queue serves again.
func TestDrainSendsAwayWhoWaits(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	l := weir.HostLimit("127.0.0.1", 1)
	l.Queue = &weir.Queue{Timeout: weir.Duration(time.Minute), Size: 5}
	n := start(t, weir.Config{Proxy: "127.0.0.1:0", API: "127.0.0.1:0", Limits: []weir.Limit{l}})
	client, err := api.NewClient(n.APIURL().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdle()
	subject := weir.Subject{Host: up.Listener.Addr().String()}
	held, err := n.Acquire(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	queued := func(want int64) {
		t.Helper()
		for {
			host, err := client.Host(t.Context(), "127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			if host.Waiting == want {
				return
			}
		}
	}
	permits := make(chan error, 1)
	wait := func() {
		p, err := n.Acquire(t.Context(), subject)
		if err == nil {
			p.Release()
		}
		permits <- err
	}
	statuses := make(chan int, 1)
	go wait()
	go func() {
		status, _ := get(t, n, up.URL)
		statuses <- status
	}()
	queued(2)
	if _, err := client.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-permits; !errors.Is(err, weir.ErrDraining) {
		t.Errorf("who waits for a permit gets %v; want ErrDraining", err)
	}
	if status := <-statuses; status != 503 {
		t.Errorf("a request in the queue gets %d; want 503", status)
	}
	if !held.Live() {
		t.Error("the permit is not live while the node drains")
	}
	if _, err := client.Undrain(t.Context()); err != nil {
		t.Fatal(err)
	}
	go wait()
	queued(1)
	held.Release()
	if err := <-permits; err != nil {
		t.Errorf("once the node drains no more: %v", err)
	}
}

// A limit that is lowered with Evict takes permits away, and Lost says so.
func TestEvictedPermitIsLost(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Limits: []weir.Limit{weir.KeyLimit("k", 1)}})
	p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Live() {
		t.Error("a new permit is not live")
	}
	if err := n.Limits().Set(t.Context(), weir.KeyLimit("k", 0), weir.Evict()); err != nil {
		t.Fatal(err)
	}
	<-p.Lost()
	if p.Live() {
		t.Error("a lost permit is live")
	}
	p.Release()
}

// A node that has not heard of its cluster's limits yet gives no permit of any scope: others may
// have all there are.
func TestNoPermitBeforeTheLimitsAreKnown(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Limits: []weir.Limit{weir.KeyLimit("k", 1)}, Cluster: &weir.Cluster{
		Role: config.RoleProxy, RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Join: []string{"127.0.0.1:1"},
	}})
	client := netip.MustParseAddr("192.0.2.1")
	for _, s := range []weir.Subject{{Key: "k"}, {Client: client}, {User: "u"}, {Host: "up.test"}} {
		if _, err := n.Acquire(t.Context(), s); !errors.Is(err, weir.ErrNoLease) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := n.Hold(t.Context(), client, "k", nil); !errors.Is(err, weir.ErrNoLease) {
		t.Errorf("Hold: %v", err)
	}
}

// A node that has lost its cluster loses its permits, and admits only what has no limit.
func TestFencedPermitIsLost(t *testing.T) {
	t.Parallel()
	ttl := func(c *config.Config) { c.Lease.TTL = 3 * time.Second }
	limits := []weir.Limit{weir.KeyLimit("k", 1)}
	server := start(t, weir.Config{Name: "server", Limits: limits, Settings: ttl, Cluster: &weir.Cluster{
		DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0",
	}})
	n := start(t, weir.Config{Name: "proxy", Limits: limits, Settings: ttl, Cluster: &weir.Cluster{
		Role: config.RoleProxy, RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Join: []string{server.GossipAddr()},
	}})
	for _, each := range []*weir.Node{server, n} {
		if err := each.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Acquire(t.Context(), weir.Subject{Key: "k"}); !errors.Is(err, weir.ErrOverLimit) {
		t.Errorf("the cluster's only permit, again: %v", err)
	}
	if err := server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-p.Lost()
	p.Release()
	if _, err := n.Acquire(t.Context(), weir.Subject{Key: "k"}); !errors.Is(err, weir.ErrNoLease) {
		t.Errorf("without a cluster: %v", err)
	}
	free, err := n.Acquire(t.Context(), weir.Subject{Key: "free"})
	if err != nil {
		t.Fatalf("without a limit: %v", err)
	}
	free.Release()
}
