package lease

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// A release in an entry that had no effect is proposed again, whatever made the entry void, also
// where the node's stream has ended meanwhile.
func TestVoidEntryKeepsRelease(t *testing.T) {
	for _, void := range []error{fsm.ErrRepeated, fsm.ErrStaleTerm} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprint(void, ", reconnects: ", back), func(t *testing.T) {
				d := newDesk(t, configLimit(t, "up", 3, limit.Queue{}))
				d.join(1, "a", "1")
				d.demand(1, &leasepb.Demand{Waiting: 2})
				d.turn()
				session := d.alloc.conns[1].ID
				key := limit.HostConnections("up")
				if g := d.state.GrantOf(session, key); g != 2 {
					t.Fatalf("%d slots are granted, want 2", g)
				}
				d.alloc.update(d.now, 1, &leasepb.Update{
					Releases: []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 2}},
					Demands:  []*leasepb.Demand{{Key: fsmpb.KeyOf(key)}},
				})
				if cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust); !ok || len(cmd.Adjustments) != 1 {
					t.Fatalf("proposed: %v", cmd)
				}
				if back {
					d.alloc.Gone(1)
				}
				d.alloc.Applied(d.now, d.state, fsm.Result{Err: void})
				if back {
					d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: protocolVersion, Node: "a", Identity: "1", Session: session})
					d.alloc.update(d.now, 2, &leasepb.Update{})
				}
				d.turn()
				if g := d.state.GrantOf(session, key); g != 0 {
					t.Errorf("%d slots that are out of use stay granted", g)
				}
				if err := d.alloc.Check(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A session is told of its end, and its end is reported, only where the log has ended it.
func TestVoidEndIsNoEnd(t *testing.T) {
	for name, end := range map[string]func(d *desk){
		"expired":   func(d *desk) { d.now += 10 * time.Second; d.alloc.Tick(d.now) },
		"said bye":  func(d *desk) { d.alloc.bye(1) },
		"said left": func(d *desk) { d.alloc.Left(Farewell{Node: "a", Session: d.alloc.conns[1].ID}) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, configLimit(t, "up", 3, limit.Queue{}))
			d.join(1, "a", "1")
			d.turn()
			end(d)
			if _, ok := d.alloc.Next(d.now, d.state).(*fsm.CloseSessions); !ok {
				t.Fatal("no end is proposed")
			}
			d.alloc.Applied(d.now, d.state, fsm.Result{Err: fsm.ErrStaleTerm})
			for _, o := range d.alloc.Take() {
				if o.Msg.GetClosed() != nil || o.End {
					t.Errorf("the node hears %v", o.Msg)
				}
			}
			if p := d.alloc.conns[1]; p == nil || p.closing || d.alloc.peers[p.ID] != p {
				t.Error("the session is forgotten")
			}
			d.now += 10 * time.Second
			d.turn()
			if n := len(d.state.Sessions()); n != 0 {
				t.Errorf("%d sessions are left once they are judged anew", n)
			}
		})
	}
}

func TestVoidEndIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 3, limit.Queue{}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.void = true
		c.mu.Unlock()
		c.setCut("a", true)
		time.Sleep(6 * time.Second) // virtual
		if told := c.hasTold(); !slices.Equal(told, []string{"a fenced: 0 severed"}) {
			t.Errorf("reported: %q", told)
		}
		c.mu.Lock()
		c.void = false
		c.mu.Unlock()
		time.Sleep(6 * time.Second)
		if told := c.hasTold(); !slices.Contains(told, "a expired: 0 slots") {
			t.Errorf("reported: %q", told)
		}
	})
}

// A leader's side that is started again in the same term goes on numbering its entries where the
// log is.
func TestSecondLeadershipOfTerm(t *testing.T) {
	d := newDesk(t, configLimit(t, "up", 3, limit.Queue{}))
	d.join(1, "a", "1")
	for range 3 {
		d.demand(1, &leasepb.Demand{Waiting: 1})
		d.turn()
		d.alloc.update(d.now, 1, &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 1}},
			Demands:  []*leasepb.Demand{{Key: fsmpb.KeyOf(limit.HostConnections("up"))}},
		})
		d.turn()
	}
	session := d.alloc.conns[1].ID
	d.alloc = NewAllocator(d.now, 1, d.state)
	d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: protocolVersion, Node: "a", Identity: "1", Session: session})
	d.turn()
	d.now += time.Second // past the rest of a new leader
	d.demand(2, &leasepb.Demand{Waiting: 2})
	if cmd := d.alloc.Next(d.now, d.state); cmd == nil {
		t.Fatal("nothing is proposed")
	} else if res := d.apply(cmd); res.Err != nil {
		t.Fatalf("the first entry is void: %v", res.Err)
	}
	if b := d.state.Batch(2); b != 0 {
		t.Errorf("the next term begins after batch %d", b)
	}
}

// unreadableKeys are keys as another version might send them, or a broken one.
var unreadableKeys = map[string]*fsmpb.Key{
	"none":             nil,
	"empty":            {},
	"unknown scope":    {Scope: 99, Resource: 1, Name: "up"},
	"unknown resource": {Scope: 1, Resource: 99, Name: "up"},
}

// A key that the other side can't read ends the stream in each direction, before anything else of
// the message counts.
func TestUnreadableKeyEndsStream(t *testing.T) {
	up := fsmpb.KeyOf(limit.HostConnections("up"))
	for name, bad := range unreadableKeys {
		for what, send := range map[string]func(d *desk){
			"release": func(d *desk) {
				d.alloc.update(d.now, 1, &leasepb.Update{Releases: []*leasepb.Holding{{Key: up, Slots: 1}, {Key: bad, Slots: 1}}})
			},
			"demand": func(d *desk) {
				d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: up, Waiting: 1}, {Key: bad, Waiting: 1}}})
			},
			"holding": func(d *desk) {
				d.alloc.hello(d.now, d.state, 1, &leasepb.Hello{Protocol: protocolVersion, Node: "a", Identity: "1", Session: d.alloc.order[0].ID,
					Holdings: []*leasepb.Holding{{Key: up, Slots: 1}, {Key: bad, Slots: 1}}})
			},
		} {
			t.Run("leader, "+what+", "+name, func(t *testing.T) {
				d := newDesk(t, configLimit(t, "up", 3, limit.Queue{}))
				d.join(1, "a", "1")
				d.turn()
				if what == "holding" {
					d.alloc.Gone(1)
				}
				send(d)
				out := d.turn()
				if len(out) != 1 || !out[0].End || out[0].Msg.GetRefused().GetReason() != leasepb.Refused_REASON_PROTOCOL {
					t.Errorf("the node hears %v", out)
				}
				if d.alloc.conns[1] != nil || d.state.Granted(limit.HostConnections("up")) != 0 {
					t.Error("some of the message counts")
				}
				if err := d.alloc.Check(); err != nil {
					t.Error(err)
				}
			})
		}
		for what, m := range map[string]*leasepb.LeaderMessage{
			"correction": {Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true, TtlNs: 10e9,
				Corrected: []*leasepb.Holding{{Key: bad}}}}},
			"grant":  {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Grants: []*leasepb.Holding{{Key: bad, Slots: 1}}}}},
			"target": {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Targets: []*leasepb.Target{{Key: bad}}}}},
			"answer": {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Answers: []*leasepb.Answer{{Key: bad}}}}},
		} {
			t.Run("node, "+what+", "+name, func(t *testing.T) {
				x := newManyNames(t, configLimit(t, "up", 3, limit.Queue{}))
				if what == "correction" {
					x.n.StreamDown(x.now)
					x.n.StreamUp(x.now)
					x.n.Outgoing(x.now)
				}
				if err := x.n.Receive(x.now, m); err == nil {
					t.Error("the stream goes on")
				}
				if what == "correction" && x.n.welcomed {
					t.Error("the welcome counts")
				}
			})
		}
	}
}

// A hello in parts counts once its last part is there: until then nothing is granted to the node,
// and nothing of what it has yet to state is released. Parts out of place end the stream.
func TestHelloInParts(t *testing.T) {
	keys := []*fsmpb.Key{fsmpb.KeyOf(limit.HostConnections("a.up")), fsmpb.KeyOf(limit.HostConnections("b.up")), fsmpb.KeyOf(limit.HostConnections("c.up"))}
	start := func(t *testing.T) (d *desk, session uint64) {
		d = newDesk(t, configLimit(t, "*.up", 3, limit.Queue{}))
		d.join(1, "a", "1")
		for _, k := range keys {
			d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: k, Waiting: 1}}, LimitsIndex: d.state.Table().Index})
		}
		d.turn()
		session = d.alloc.conns[1].ID
		d.alloc.Gone(1)
		d.turn()
		if n := len(d.state.SessionGrants(session)); n != len(keys) {
			t.Fatalf("%d grants, want %d", n, len(keys))
		}
		return d, session
	}
	verify := func(d *desk) {
		if d.alloc.Verify() {
			d.alloc.Verified(d.now, d.state, true)
		}
	}
	hello := func(session uint64) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: protocolPaged, Node: "a", Identity: "1",
			Session: session, Holdings: []*leasepb.Holding{{Key: keys[0], Slots: 1}}, More: true}}}
	}
	part := func(k *fsmpb.Key, more bool) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Holdings{Holdings: &leasepb.Holdings{Holdings: []*leasepb.Holding{{Key: k, Slots: 1}}, More: more}}}
	}
	receive := func(d *desk, conn uint64, m *leasepb.NodeMessage) []Outbound {
		d.alloc.Receive(d.now, conn, proto.CloneOf(m), d.now)
		verify(d)
		return d.turn()
	}
	t.Run("whole", func(t *testing.T) {
		d, session := start(t)
		for _, m := range []*leasepb.NodeMessage{hello(session), part(keys[1], true)} {
			if out := receive(d, 2, m); len(out) != 0 || d.alloc.conns[2] != nil {
				t.Fatalf("before the last part the node hears %v", out)
			}
			d.alloc.update(d.now, 2, &leasepb.Update{Demands: []*leasepb.Demand{{Key: keys[0], Held: 1, InUse: 1, Waiting: 1}}})
			if d.turn(); d.state.GrantOf(session, limit.HostConnections("a.up")) != 1 {
				t.Fatal("slots are granted before the last part")
			}
		}
		out := receive(d, 2, part(keys[2], false))
		if len(out) != 2 || !out[1].Msg.GetWelcome().GetResumed() || len(out[1].Msg.GetWelcome().GetCorrected()) != 0 {
			t.Fatalf("after the last part the node hears %v", out)
		}
		d.alloc.update(d.now, 2, &leasepb.Update{})
		if d.turn(); len(d.state.SessionGrants(session)) != len(keys) {
			t.Errorf("the log grants %v", d.state.SessionGrants(session))
		}
	})
	for name, send := range map[string]func(d *desk, session uint64) []Outbound{
		"part without a hello": func(d *desk, _ uint64) []Outbound { return receive(d, 2, part(keys[1], true)) },
		"part after a whole one": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			receive(d, 2, part(keys[1], false))
			return receive(d, 2, part(keys[2], false))
		},
		"too much": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			m := part(nil, true)
			m.GetHoldings().Holdings = make([]*leasepb.Holding, maxHoldings)
			d.alloc.Receive(d.now, 2, m, d.now)
			return d.turn()
		},
		"unreadable key in a part": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			return receive(d, 2, part(&fsmpb.Key{Scope: 99, Name: "x"}, false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, session := start(t)
			if out := send(d, session); len(out) != 1 || !out[0].End {
				t.Errorf("the node hears %v", out)
			}
			if len(d.alloc.partial) != 0 || d.alloc.conns[2] != nil {
				t.Error("something of the statement is kept")
			}
			if len(d.state.SessionGrants(session)) != len(keys) {
				t.Errorf("the log grants %v", d.state.SessionGrants(session))
			}
		})
	}
	t.Run("stream ends", func(t *testing.T) {
		d, session := start(t)
		receive(d, 2, hello(session))
		d.alloc.Gone(2)
		receive(d, 3, part(keys[1], false))
		if len(d.alloc.partial) != 0 || d.alloc.conns[2] != nil || d.alloc.conns[3] != nil {
			t.Error("the part of another stream is taken")
		}
	})
}

// A farewell that comes between two leaders ends the session once this server leads again, at once
// and not after a ttl.
func TestFarewellBetweenLeaders(t *testing.T) {
	for _, late := range []time.Duration{0, 500 * time.Millisecond, 2 * farewellFor} {
		synctest.Test(t, func(t *testing.T) {
			c := startCluster(t, configLimit(t, "up", 3, limit.Queue{}))
			m, stop := c.start(t, "a", "1")
			if err := m.WaitLive(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := m.Session().ID
			c.depose()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			c.server.Left(Farewell{Node: "a", Session: id})
			c.server.Left(Farewell{Node: "a"}) // says nothing
			time.Sleep(late)
			c.lead(t, 2)
			time.Sleep(100 * time.Millisecond)
			told := c.hasTold()
			if ended := slices.Contains(told, "a left: 0 slots"); ended != (late < farewellFor) {
				t.Errorf("a leader %v after the farewell reports %q", late, told)
			}
		})
	}
}

// The server forgets farewells and dead nodes beyond a bound.
func TestServerMemoryIsBounded(t *testing.T) {
	s := NewServer(nil, nil, nil, nil)
	for i := range 3 * maxDead {
		s.Health(fmt.Sprint("node-", i), true)
		s.Left(Farewell{Node: fmt.Sprint("node-", i), Session: uint64(i + 1)})
	}
	if len(s.dead) != maxDead || !s.dead[fmt.Sprint("node-", 3*maxDead-1)] {
		t.Errorf("%d dead nodes are remembered", len(s.dead))
	}
	if n := len(s.left); n != maxFarewells || s.left[n-1].Session != 3*maxDead {
		t.Errorf("%d farewells are remembered", n)
	}
}

// A message that is handed over after its stream's end has been noted does nothing: a hello would
// wait for ever.
func TestMessageAfterEndOfStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 3, limit.Queue{}))
		synctest.Wait()
		c.server.mu.Lock()
		l := c.server.lead
		c.server.mu.Unlock()
		gone := &conn{id: 99}
		done := make(chan struct{})
		go l.receive(&lateReader{memStream: memStream{ctx: t.Context()}, msgs: []*leasepb.NodeMessage{
			{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: protocolVersion, Node: "a", Identity: "1"}}},
		}, done: done}, gone)
		<-done
		time.Sleep(time.Second)
		l.post(func(time.Duration, *fsm.State) {
			if n := len(l.alloc.unproven) + len(l.alloc.unverified) + len(l.alloc.verifying); n != 0 {
				t.Errorf("%d hellos of a stream that has ended wait", n)
			}
		})
		time.Sleep(time.Second)
	})
}

// lateReader is a stream that still reads some messages.
type lateReader struct {
	memStream
	msgs []*leasepb.NodeMessage
	done chan struct{}
}

func (r *lateReader) Send(*leasepb.LeaderMessage) error { return nil }

func (r *lateReader) Recv() (*leasepb.NodeMessage, error) {
	if len(r.msgs) == 0 {
		close(r.done)
		return nil, io.EOF
	}
	m := r.msgs[0]
	r.msgs = r.msgs[1:]
	return m, nil
}

// While no verification comes back, one keep-alive of each stream waits, the newest, and its hello
// is not displaced.
func TestOneKeepAliveWaits(t *testing.T) {
	d := newDesk(t, configLimit(t, "up", 3, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	say := func(conn, seq uint64) {
		d.alloc.Receive(d.now, conn, keepAliveMessage(seq), d.now)
	}
	d.alloc.Receive(d.now, 3, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: protocolVersion, Node: "c", Identity: "3"}}}, d.now)
	say(1, 1)
	d.alloc.Verify() // hangs
	for seq := uint64(2); seq < 100; seq++ {
		d.now += time.Millisecond
		say(1, seq)
		say(2, seq)
	}
	if n := len(d.alloc.unverified) + len(d.alloc.verifying); n != 4 {
		t.Fatalf("%d messages wait, want 4", n)
	}
	acks := map[uint64]uint64{}
	for range 2 {
		d.alloc.Verified(d.now, d.state, true)
		for _, o := range d.turn() {
			if k := o.Msg.GetKeepAliveAck(); k != nil {
				acks[o.Conn] = k.Seq
			}
		}
		d.alloc.Verify()
	}
	if acks[1] != 99 || acks[2] != 99 {
		t.Errorf("answered: %v", acks)
	}
	if p := d.alloc.conns[1]; p.seen != d.now {
		t.Errorf("the node counts as heard at %v, want %v", p.seen, d.now)
	}
}

// Requests that wait for the leader's answer are bounded, for each key alone, and do not count
// against its queue.
func TestAskingIsBounded(t *testing.T) {
	x := newManyNames(t, configLimit(t, "*", 1, limit.Queue{}))
	x.mute = true
	ask := func(host string) error {
		_, err := x.n.Acquire(x.now, NewSlot(limit.Target{Host: host, Port: 443}, newHolder()), func(error) {})
		return err
	}
	for i := range maxAsking {
		if err := ask("up"); err != nil {
			t.Fatalf("request %d is refused: %v", i, err)
		}
	}
	if err := ask("up"); err != ErrNoLease {
		t.Errorf("beyond the bound the answer is %v, want %v", err, ErrNoLease)
	}
	if err := ask("other"); err != nil {
		t.Errorf("another key's request is refused: %v", err)
	}
}
