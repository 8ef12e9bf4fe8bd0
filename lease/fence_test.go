package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// inSession is a node with a live session, that goes by a table.
func inSession(index, shape uint64, limits ...limit.Limit) *Node {
	n := NewNode("a", "1", ExpiryClose, limit.NewTable(index, shape, limits))
	n.sess.begin(1, 1, time.Hour, 0)
	n.stream.phase = streamWelcome
	n.openGate()
	return n
}

// What the log does not grant is severed besides what is on its way out already.
func TestCorrectionSeversWhatIsNotSeveredYet(t *testing.T) {
	n := inSession(1, 1, kit.Limit(t, "up", 10, limit.Queue{}))
	key := limit.HostConnections("up")
	n.grant(key, 10)
	for i := range 10 {
		if ok, err := n.tryAcquire(time.Duration(i), NewSlot(to(t, "up"), newHolder()), n.table.Load()); !ok {
			t.Fatal(err)
		}
	}
	p := n.lookup(key)
	severed := func() (all int) {
		for s := p.head; s != nil; s = s.next {
			if s.severed.Load() {
				all++
			}
		}
		return all
	}
	evict := &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 1, Slots: 8, Evict: true}
	for range 2 { // the second finds them severed
		if err := n.assigned(10, &leasepb.Assign{Targets: []*leasepb.Target{evict}}); err != nil {
			t.Fatal(err)
		}
		if got := severed(); got != 2 {
			t.Fatalf("%d of 10 are severed; want 2", got)
		}
	}
	n.correct(20, []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 6}})
	if got := severed(); got != 6 {
		t.Errorf("%d of 10 are severed; want the two, and four that the log does not grant", got)
	}
}

// A node that parts has closed its gate: it does not look again and again at who waits for a rate.
func TestPartingNodeRests(t *testing.T) {
	l := kit.Limit(t, "up", limit.Unlimited, limit.Queue{})
	l.Bandwidth = limit.Bandwidth{Download: 100_000, Burst: 4096}
	n := inSession(1, 1, l)
	key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"}
	n.grant(key, limit.Shares)
	n.lookup(key).resize(0)
	f := NewMeter(&limit.Subject{Host: to(t, "up")}, limit.Download, make(wakeup, 1))
	if got := n.Piece(1, f, 4096); got != 0 {
		t.Fatalf("%d bytes of an empty bucket", got)
	}
	n.Part(2)
	for now := time.Second; now < 2*time.Second; now += tickEvery {
		n.Tick(now, now)
		if next := n.NextWake(now); next <= now {
			t.Fatalf("at %v it wants to be woken at %v", now, next)
		}
	}
}

// Without a lease no byte moves under a limit on bandwidth: a request that begins is refused, rather
// than left to wait for as long as the node is cut off. Other requests begin.
func TestNoLeaseRefusesWhatCouldNotMove(t *testing.T) {
	client := limit.ClientOf(netip.MustParseAddr("10.0.0.1"))
	subject := &limit.Subject{Host: to(t, "up"), Client: client, User: "nightly"}
	at := func(scope limit.Scope, pattern string, r limit.Resource) (l limit.Limit, key limit.Key) {
		l = limit.Limit{Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Burst: 1 << 20}, Source: limit.SourceConfig}
		if l.Bandwidth.Upload = 1 << 20; r == limit.Download {
			l.Bandwidth.Upload, l.Bandwidth.Download = 0, 1<<20
		}
		var err error
		if l.Pattern, err = scope.ParsePattern(pattern); err != nil {
			t.Fatal(err)
		}
		_, name := limit.NewTable(1, 1, []limit.Limit{l}).Find(scope, subject)
		return l, limit.Key{Scope: scope, Resource: r, Name: name}
	}
	for _, on := range []struct {
		scope   limit.Scope
		pattern string
	}{{limit.ScopeHost, "up"}, {limit.ScopeClient, "*"}, {limit.ScopeUser, "nightly"}, {limit.ScopeTotal, ""}} {
		for _, r := range []limit.Resource{limit.Upload, limit.Download} {
			l, key := at(on.scope, on.pattern, r)
			for _, expiry := range []Expiry{ExpiryClose, ExpiryDrain, ExpiryKeep} {
				for _, holds := range []bool{false, true} {
					m, clock := liveManager(t, expiry, 0, l)
					if holds {
						m.node.grant(key, limit.Shares)
						m.node.lookup(key).resize(0)
					}
					if err := m.Admit(subject); err != nil {
						t.Errorf("%s, %s, in session: %v", key, expiry, err)
					}
					clock.now.Store(int64(time.Minute))
					want := ErrNoLease
					if expiry == ExpiryKeep && holds {
						want = nil
					}
					if err := m.Admit(subject); expiry != ExpiryKeep && !errors.Is(err, want) {
						t.Errorf("%s, %s, past the deadline: %v; want %v", key, expiry, err, want)
					}
					m.do(func(now time.Duration) { m.node.Tick(now, now) })
					if err := m.Admit(subject); !errors.Is(err, want) {
						t.Errorf("%s, %s, fenced, holding units %v: %v; want %v", key, expiry, holds, err, want)
					}
					if err := m.Admit(&limit.Subject{Host: to(t, "other")}); err != nil && on.scope != limit.ScopeTotal {
						t.Errorf("%s, fenced, of another subject: %v", key, err)
					}
				}
			}
		}
	}
	for name, change := range map[string]func(*limit.Limit){
		"a limit that only reports": func(l *limit.Limit) { l.Report = true },
		"one of each connection": func(l *limit.Limit) {
			l.Pattern, _ = limit.ScopeConnection.ParsePattern("")
		},
	} {
		l, _ := at(limit.ScopeHost, "up", limit.Download)
		change(&l)
		m, clock := liveManager(t, ExpiryClose, 0, l)
		clock.now.Store(int64(time.Minute))
		if err := m.Admit(subject); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, _ := at(limit.ScopeHost, "up", limit.Download)
	m, _ := liveManager(t, ExpiryClose, 0, l)
	m.do(m.node.Part)
	if err := m.Admit(subject); !errors.Is(err, ErrDraining) {
		t.Errorf("a node that leaves: %v; want ErrDraining", err)
	}
}

// Evict closes the newest connections of each scope, also those that a limit counts which was set
// when they were open.
func TestEvictClosesTheNewestOfEachScope(t *testing.T) {
	for name, l := range map[string]limit.Limit{
		"host":     scopeLimit(t, limit.ScopeHost, "up", 20),
		"client":   scopeLimit(t, limit.ScopeClient, "10.0.0.7", 20),
		"client *": scopeLimit(t, limit.ScopeClient, "*", 20),
		"user":     scopeLimit(t, limit.ScopeUser, "u", 20),
		"total":    scopeLimit(t, limit.ScopeTotal, "", 20),
		"key":      scopeLimit(t, limit.ScopeKey, "k", 20),
	} {
		for _, first := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, first %v", name, first), func(t *testing.T) {
				m, clock := liveManager(t, ExpiryClose, 0)
				subject := &limit.Subject{Client: limit.ClientOf(addr(t, "10.0.0.7")), User: "u", Key: "k", Host: to(t, "up")}
				scope := l.Pattern.Scope()
				_, name := limit.NewTable(2, 2, []limit.Limit{l}).Find(scope, subject)
				key := limit.Key{Scope: scope, Resource: limit.Connections, Name: name}
				set := func(now time.Duration) { m.node.setLimits(now, limit.NewTable(2, 2, []limit.Limit{l})) }
				if !first {
					m.do(set)
					m.node.grant(key, 20)
				}
				holders := make([]*holder, 12)
				for i := range holders {
					clock.now.Add(1)
					holders[i] = newHolder()
					if err := m.Begin(t.Context(), new(Request), subject, holders[i]); err != nil {
						t.Fatal(err)
					}
					if scope == limit.ScopeHost {
						if _, err := acquire(m, t.Context(), subject.Host, holders[i]); err != nil {
							t.Fatal(err)
						}
					}
				}
				if first {
					m.do(set)
				}
				for _, target := range []int64{9, 5, 2} {
					hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
						Targets: []*leasepb.Target{{Key: fsmpb.KeyOf(key), Seq: uint64(12 - target), Slots: target, Evict: true}}}}})
					for i, h := range holders {
						if closed := h.severed() == SeverEvicted; closed != (i >= int(target)) {
							t.Errorf("down to %d: connection %d is closed: %v", target, i, closed)
						}
					}
				}
			})
		}
	}
}

// A request that is refused because its node has no lease, or leaves, was not refused by the limit.
func TestNoLeaseIsNoRefusalByTheLimit(t *testing.T) {
	key := limit.HostConnections("up")
	for name, refuse := range map[string]func(m *Manager, clock *manualClock, wait func() *Waiter){
		"past the deadline": func(_ *Manager, clock *manualClock, wait func() *Waiter) {
			clock.now.Store(int64(time.Minute))
			wait()
		},
		"fenced while it waits": func(m *Manager, clock *manualClock, wait func() *Waiter) {
			wait()
			clock.now.Store(int64(time.Minute))
			m.do(func(now time.Duration) { m.node.Tick(now, now) })
		},
		"unanswered": func(m *Manager, clock *manualClock, wait func() *Waiter) {
			w := wait()
			clock.now.Store(int64(askTimeout))
			m.do(func(now time.Duration) { m.node.Expire(now, w) })
		},
		"too many unanswered": func(m *Manager, _ *manualClock, wait func() *Waiter) {
			for range maxAsking {
				m.do(func(now time.Duration) {
					if _, err := m.node.Acquire(now, NewSlot(to(t, "up"), newHolder()), func(error) {}); err != nil {
						t.Fatal(err)
					}
				})
			}
			wait()
		},
		"parting while it waits": func(m *Manager, _ *manualClock, wait func() *Waiter) {
			wait()
			m.do(m.node.Part)
		},
		"parting": func(m *Manager, _ *manualClock, wait func() *Waiter) {
			m.do(m.node.Part)
			wait()
		},
	} {
		m, clock := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{}))
		var got error
		refuse(m, clock, func() (w *Waiter) {
			m.do(func(now time.Duration) {
				var err error
				if w, err = m.node.Acquire(now, NewSlot(to(t, "up"), newHolder()), func(err error) { got = err }); err != nil {
					got = err
				}
			})
			return w
		})
		if !errors.Is(got, ErrNoLease) && !errors.Is(got, ErrDraining) {
			t.Errorf("%s: answered %v", name, got)
		}
		if use, _ := m.Use(key); use.Rejected != 0 {
			t.Errorf("%s: the limit is said to have refused %d requests", name, use.Rejected)
		}
	}
}
