package lease

import (
	"testing"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// unreadableKeys are keys as another version might send them, or a broken one.
var unreadableKeys = map[string]*fsmpb.Key{
	"none":             nil,
	"empty":            {},
	"unknown scope":    {Scope: 99, Resource: 1, Name: "up"},
	"unknown resource": {Scope: 1, Resource: 99, Name: "up"},
}

// A key that this node can't read ends the stream, before anything else of the message counts.
func TestUnreadableKeyEndsStream(t *testing.T) {
	for name, bad := range unreadableKeys {
		for what, m := range map[string]*leasepb.LeaderMessage{
			"correction": {Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true, TtlNs: 10e9,
				Corrected: []*leasepb.Holding{{Key: bad}}}}},
			"grant":  {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Grants: []*leasepb.Holding{{Key: bad, Slots: 1}}}}},
			"target": {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Targets: []*leasepb.Target{{Key: bad}}}}},
			"answer": {Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Answers: []*leasepb.Answer{{Key: bad}}}}},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				x := newManyNames(t, kit.Limit(t, "up", 3, limit.Queue{}))
				if what == "correction" {
					x.n.StreamDown(x.now)
					x.n.StreamUp(x.now)
					x.n.Outgoing(x.now)
				}
				if err := x.n.Receive(x.now, m); err == nil {
					t.Error("the stream goes on")
				}
				if what == "correction" && x.n.welcomed() {
					t.Error("the welcome counts")
				}
			})
		}
	}
}

// Requests that wait for the leader's answer are bounded, for each key alone, and do not count
// against its queue.
func TestAskingIsBounded(t *testing.T) {
	x := newManyNames(t, kit.Limit(t, "*", 1, limit.Queue{}))
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
