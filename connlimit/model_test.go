package connlimit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

// conn is a connection that has an address, and nothing more.
type conn struct {
	net.Conn
	remote net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.remote }
func (c conn) Close() error         { return nil }

func from(addr string) net.Conn {
	return &conn{remote: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))}
}

func newLimiter(t testing.TB, c Config) *Limiter {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// model is the naive limiter: it walks over all that is open.
type model struct {
	config Config
	open   []netip.Addr
}

func (m *model) governs(addr netip.Addr) (Limit, *Network, netip.Prefix) {
	bits := m.config.IPv4Prefix
	if bits == 0 {
		bits = 32
	}
	if addr.Is6() {
		if bits = m.config.IPv6Prefix; bits == 0 {
			bits = 64
		}
		if addr.IsLinkLocalUnicast() {
			bits = 128
		}
	}
	per := m.config.Connections.PerClient
	var best *Network
	for i, n := range m.config.Connections.Networks {
		if n.Prefix.Contains(addr) && (best == nil || n.Prefix.Bits() > best.Prefix.Bits()) {
			best = &m.config.Connections.Networks[i]
		}
	}
	if best != nil {
		per, bits = best.PerClient, max(bits, best.Prefix.Bits())
	} else {
		for _, p := range m.config.TrustedProxies {
			if p.Contains(addr) {
				per = Limit{}
			}
		}
	}
	p, _ := addr.Prefix(bits)
	return per, best, p
}

func (m *model) count(addr netip.Addr) (client, network int) {
	_, net, client1 := m.governs(addr)
	for _, o := range m.open {
		_, net2, client2 := m.governs(o)
		if client1 == client2 {
			client++
		}
		if net != nil && net2 == net {
			network++
		}
	}
	return client, network
}

// accept returns the scope that refuses, 0 for none.
func (m *model) accept(addr netip.Addr) Scope {
	per, network, _ := m.governs(addr)
	clients, inNetwork := m.count(addr)
	switch {
	case per.capped && clients >= per.n:
		return ScopeClient
	case network != nil && network.Total.capped && inNetwork >= network.Total.n:
		return ScopeNetwork
	case m.config.Connections.Total.capped && len(m.open) >= m.config.Connections.Total.n:
		return ScopeTotal
	}
	m.open = append(m.open, addr)
	return 0
}

func (m *model) free(i int) {
	m.open[i] = m.open[len(m.open)-1]
	m.open = m.open[:len(m.open)-1]
}

var modelAddrs = []string{
	"192.0.2.1", "192.0.2.2", "192.0.2.130", "198.51.100.7", "10.0.0.1", "10.0.0.2", "10.1.0.1",
	"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:0:1:8000::1", "2001:db8:1::1",
	"fe80::1", "fe80::2", "::1", "127.0.0.1", "2001:db8:ffff::9",
}

func randomLimit(r *rand.Rand, most int) Limit {
	if r.IntN(3) == 0 {
		return Limit{}
	}
	return AtMost(r.IntN(most))
}

func randomConfig(r *rand.Rand) Config {
	c := Config{Connections: Limits{Total: randomLimit(r, 1000), PerClient: randomLimit(r, 40)}}
	if r.IntN(2) == 0 {
		c.IPv6Prefix = 1 + r.IntN(128)
		c.IPv4Prefix = 1 + r.IntN(32)
	}
	if r.IntN(2) == 0 {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	}
	for _, p := range []string{
		"192.0.2.0/24", "192.0.2.128/25", "192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32", "2001:db8:0:1::/64",
		"2001:db8:0:1:8000::/65", "2001:db8::1/128", "::/0", "0.0.0.0/0", "fe80::/10",
	} {
		if r.IntN(4) == 0 {
			c.Connections.Networks = append(c.Connections.Networks, Network{netip.MustParsePrefix(p), randomLimit(r, 30), randomLimit(r, 100)})
		}
	}
	return c
}

// TestModel: with any sequence of accepts, frees, repeated frees and changes of the configuration,
// the limiter answers and counts as one that walks over all that is open.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		if err := compare(seed, 1000); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func compare(seed uint64, steps int) error {
	r := rand.New(rand.NewPCG(seed, 0))
	m := &model{config: randomConfig(r)}
	l, err := New(m.config)
	if err != nil {
		return err
	}
	var frees, spent []func()
	for i := range steps {
		switch n := r.IntN(100); {
		case n == 0:
			m.config = randomConfig(r)
			if err := l.SetConfig(m.config); err != nil {
				return err
			}
		case n == 1: // a client is asked for by many cores
			rules := l.conns.rules.Load()
			v := rules.govern(netip.MustParseAddr(modelAddrs[r.IntN(len(modelAddrs))]))
			if v.hot == nil {
				l.conns.promote(rules, v)
			}
		case n < 40 && len(frees) > 0:
			j := r.IntN(len(frees))
			frees[j]()
			spent = append(spent, frees[j])
			frees[j] = frees[len(frees)-1]
			frees = frees[:len(frees)-1]
			m.free(j)
		case n < 45 && len(spent) > 0:
			spent[r.IntN(len(spent))]()
		default:
			addr := modelAddrs[r.IntN(len(modelAddrs))]
			want := m.accept(netip.MustParseAddr(addr))
			free, err := l.Accept(from(addr))
			refusal := &Error{}
			if errors.As(err, &refusal); refusal.Scope != want {
				return fmt.Errorf("step %d: accept %s: %v; want a refusal by %v", i, addr, err, want)
			}
			if err == nil {
				frees = append(frees, free)
			} else {
				spent = append(spent, free)
			}
		}
		addr := modelAddrs[r.IntN(len(modelAddrs))]
		if got, want := l.NumOpen(from(addr).RemoteAddr()), first(m.count(netip.MustParseAddr(addr))); got != want {
			return fmt.Errorf("step %d: NumOpen(%s) is %d; want %d", i, addr, got, want)
		}
		if got := l.Stats().Connections.Open; got != int64(len(m.open)) {
			return fmt.Errorf("step %d: %d open; want %d", i, got, len(m.open))
		}
	}
	return nil
}

func first[A, B any](a A, _ B) A { return a }

// TestNeverOverAnyLimit: goroutines accept and free as fast as they can, while the configuration
// changes to others with the same limits. No count ever passes its limit, and in the end nothing is
// counted.
func TestNeverOverAnyLimit(t *testing.T) {
	for _, total := range []int{3, 700, 5000} {
		t.Run(fmt.Sprint(total), func(t *testing.T) {
			t.Parallel()
			const perClient, inNetwork = 3, 10
			config := Config{Connections: Limits{Total: AtMost(total), PerClient: AtMost(perClient),
				Networks: []Network{{netip.MustParsePrefix("10.0.0.0/8"), AtMost(perClient), AtMost(inNetwork)}}}}
			l := newLimiter(t, config)
			var all, network atomic.Int64
			clients := make([]atomic.Int64, 2000)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(total), uint64(g)))
					type held struct {
						free   func()
						client int
					}
					var mine []held
					for range 4000 {
						if len(mine) > 0 && (r.IntN(2) == 0 || len(mine) > total/4) {
							h := mine[len(mine)-1]
							mine = mine[:len(mine)-1]
							all.Add(-1)
							clients[h.client].Add(-1)
							if h.client < 50 {
								network.Add(-1)
							}
							h.free()
							h.free()
							continue
						}
						client := r.IntN(len(clients))
						first := 11
						if client < 50 {
							first = 10
						}
						free, err := l.Accept(from(fmt.Sprintf("%d.0.%d.%d", first, client/256, client%256)))
						if err != nil {
							free()
							continue
						}
						if n := all.Add(1); n > int64(total) {
							t.Errorf("%d open; the limit is %d", n, total)
						}
						if n := clients[client].Add(1); n > perClient {
							t.Errorf("%d open of one client; the limit is %d", n, perClient)
						}
						if client < 50 {
							if n := network.Add(1); n > inNetwork {
								t.Errorf("%d open of the network; the limit is %d", n, inNetwork)
							}
						}
						mine = append(mine, held{free, client})
					}
					for _, h := range mine {
						all.Add(-1)
						clients[h.client].Add(-1)
						if h.client < 50 {
							network.Add(-1)
						}
						h.free()
					}
				})
			}
			wg.Go(func() {
				for i := range 20 {
					if err := l.SetConfig(config); err != nil {
						t.Error(err)
					}
					for j := range 5 {
						rules := l.conns.rules.Load()
						l.conns.promote(rules, rules.govern(netip.AddrFrom4([4]byte{byte(10 + j%2), 0, 0, byte(i)})))
					}
				}
			})
			wg.Wait()
			if s := l.Stats().Connections; s.Open != 0 {
				t.Errorf("%d are counted at the end; want 0", s.Open)
			}
			for i := range l.conns.shards {
				if n := l.conns.shards[i].clients.len(); n != 0 {
					t.Errorf("a shard remembers %d clients; want 0", n)
				}
			}
			checkUnits(t, l, total)
		})
	}
}

// checkUnits: with nothing open, the whole of the total is free.
func checkUnits(t *testing.T, l *Limiter, total int) {
	t.Helper()
	frees := []func(){}
	for i := range total {
		free, err := l.Accept(from(fmt.Sprintf("12.%d.%d.%d", i>>16, i>>8&255, i&255)))
		if err != nil {
			t.Fatalf("with %d of %d open: %v", i, total, err)
		}
		frees = append(frees, free)
	}
	if _, err := l.Accept(from("13.0.0.1")); !errors.Is(err, ErrLimit) {
		t.Errorf("with all %d open: %v; want a refusal", total, err)
	}
	for _, free := range frees {
		free()
	}
}

// TestNoUnitLiesUnused: nothing is refused while a unit of the total is free, wherever it is. Each
// goroutine frees one and takes one; there is room for all of them, and for no more.
func TestNoUnitLiesUnused(t *testing.T) {
	for _, total := range []int{8, 4096} {
		t.Run(fmt.Sprint(total), func(t *testing.T) {
			t.Parallel()
			l := newLimiter(t, Config{Connections: Limits{Total: AtMost(total),
				Networks: []Network{{netip.MustParsePrefix("0.0.0.0/0"), Limit{}, AtMost(total)}}}})
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), uint64(total)))
					mine := make([]func(), total/8)
					for i := range 4000 {
						j := i % len(mine)
						if mine[j] != nil {
							mine[j]()
						}
						free, err := l.Accept(from(fmt.Sprintf("10.0.%d.%d", r.IntN(256), r.IntN(256))))
						if err != nil {
							t.Error(err)
							return
						}
						mine[j] = free
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestHotClient: a client that is counted in all shards has as many as its limit, to the last unit,
// wherever the spare ones lie, and is never refused one that is free.
func TestHotClient(t *testing.T) {
	for _, most := range []int{4, 16, 4096} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			t.Parallel()
			l := newLimiter(t, Config{Connections: Limits{PerClient: AtMost(most), Total: AtMost(most + 1)}})
			kept := admit(t, l, from("192.0.2.1"))
			b := l.conns
			b.promote(b.rules.Load(), b.rules.Load().govern(netip.MustParseAddr("192.0.2.1")))
			admit(t, l, from("192.0.2.2"))
			kept.Free()
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					mine := make([]func(), most/4)
					for i := range 3000 {
						j := i % len(mine)
						if mine[j] != nil {
							mine[j]()
						}
						b.affinity.pool.Put(&b.shards[i%len(b.shards)]) // as if on another core
						free, err := l.Accept(from("192.0.2.1"))
						if err != nil {
							t.Error(err)
							return
						}
						mine[j] = free
					}
					for i := range mine {
						if mine[i] == nil {
							mine[i], _ = l.Accept(from("192.0.2.1"))
						}
					}
				})
			}
			wg.Wait()
			if n := l.NumOpen(from("192.0.2.1").RemoteAddr()); n != most {
				t.Errorf("%d are open; want %d", n, most)
			}
			_, err := l.Accept(from("192.0.2.1"))
			refusedBy(t, err, ScopeClient)
		})
	}
}

// TestCrowd: a client becomes hot if it is most of what a lock is waited for, and not otherwise.
func TestCrowd(t *testing.T) {
	a, b := clientKey{lo: 1}, clientKey{lo: 2}
	var c crowd
	for i := range 1000 {
		if c.note([]clientKey{a, b}[i%2]) {
			t.Fatal("one of two that wait equally becomes hot")
		}
	}
	for i := 1; !c.note(a); i++ {
		if i > hotAfter+1 {
			t.Fatalf("not hot after %d waits", i)
		}
	}
}

// TestUnsure: where units may still be in a shard, or may come back from an attempt that another
// limit refuses, nothing is refused before that is known.
func TestUnsure(t *testing.T) {
	for _, test := range []struct {
		free, mode int64
		want       outcome
	}{
		{0, modeUncapped, taken},
		{64, modeSpread, taken}, {3, modeSpread, mustGather}, {0, modeSpread, mustGather},
		{1, modeGathering, taken}, {0, modeGathering, mustGather}, {-2, modeGathering, mustGather},
		{1, modeCentral, taken}, {0, modeCentral, refused}, {-2, modeCentral, refused},
	} {
		q := &quota{batch: 4}
		q.word.Store(test.free<<modeBits | test.mode)
		spare := int64(0)
		if got := q.take(&spare); got != test.want {
			t.Errorf("%d free in mode %d: %d; want %d", test.free, test.mode, got, test.want)
		}
		h := &hot{limit: AtMost(10), parts: make([]hotPart, 1), quota: quota{batch: 4}}
		h.quota.word.Store(test.free<<modeBits | test.mode)
		if test.mode == modeUncapped {
			h.limit = Limit{}
		}
		if got := h.offer(&shard{}); got != test.want {
			t.Errorf("of a hot client, %d free in mode %d: %d; want %d", test.free, test.mode, got, test.want)
		}
	}
	n := &network{Network: Network{Total: AtMost(2)}}
	n.take()
	n.settle(true)
	if ok, _ := n.take(); !ok {
		t.Fatal("the second of two is refused")
	}
	if ok, unsettled := n.take(); ok || !unsettled {
		t.Errorf("while the second is not settled: %v, %v; want that it can't be told", ok, unsettled)
	}
	n.settle(false)
	n.take()
	n.settle(true)
	if ok, unsettled := n.take(); ok || unsettled {
		t.Errorf("with two: %v, %v; want a refusal", ok, unsettled)
	}
	n.give()
	if ok, _ := n.take(); !ok {
		t.Error("after one was given back: refused")
	}
}
