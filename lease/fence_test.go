package lease

import (
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
