package lease

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

func statesLimits(cluster string, index uint64) *leasepb.LeaderMessage {
	return leasepb.LimitsMessage(cluster, limit.NewTable(index, 1, nil))
}

func statesWelcome(cluster string, session uint64) *leasepb.LeaderMessage {
	return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Cluster: cluster, Session: session, Term: 1, TtlNs: int64(10 * time.Second)}}}
}

// TestNodeIsOfOneCluster: a node takes nothing from a leader of another cluster than that of its
// first session: no limits, no session.
func TestNodeIsOfOneCluster(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]string{"known from before": "one", "known from the first session": ""} {
		n := NewNode("a", "1", ExpiryClose, nil)
		n.SetCluster(known)
		n.StreamUp(0)
		if h := n.Outgoing(0)[0].GetHello(); h.GetCluster() != known {
			t.Errorf("%s: the hello names cluster %q", name, h.GetCluster())
		}
		for _, m := range []*leasepb.LeaderMessage{statesLimits("one", 3), statesWelcome("one", 7)} {
			if err := n.Receive(0, m); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		n.StreamDown(0)
		n.StreamUp(0)
		if h := n.Outgoing(0)[0].GetHello(); h.GetCluster() != "one" {
			t.Errorf("%s: then the hello names cluster %q", name, h.GetCluster())
		}
		for _, m := range []*leasepb.LeaderMessage{statesLimits("two", 99), statesLimits("", 99), statesWelcome("two", 8), statesWelcome("", 8)} {
			if err := n.Receive(0, m); !errors.Is(err, ErrOtherCluster) {
				t.Errorf("%s: %v is taken: %v", name, m, err)
			}
		}
		if n.Table().Index != 3 || n.Session(0).ID != 7 {
			t.Errorf("%s: limits %d and session %d, want those of its own cluster, 3 and 7", name, n.Table().Index, n.Session(0).ID)
		}
	}
}

// keeper is an Affiliation that notes what is kept.
type keeper struct {
	lean string
	kept []string
	err  error
}

func (k *keeper) ClusterID() string { return k.lean }

func (k *keeper) SetClusterID(id string) error {
	k.kept = append(k.kept, id)
	return k.err
}

// TestClusterIsKeptBeforeItsGrantsAreUsed: whatever a node knew of its cluster before, the id is
// kept when its first leader states it, and what that leader says counts only then.
func TestClusterIsKeptBeforeItsGrantsAreUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lean string
		err  error
		used bool
	}{{"", nil, true}, {"one", nil, true}, {"", errors.New("no room"), false}, {"two", nil, false}} {
		k := &keeper{lean: test.lean, err: test.err}
		m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: &manualClock{}, Affiliation: k})
		m.node.SetCluster(k.ClusterID())
		m.node.StreamUp(0)
		err := m.receiveAll(&scripted{messages: []*leasepb.LeaderMessage{statesLimits("one", 3)}})
		if used := m.Table() != nil; used != test.used {
			t.Errorf("%+v: the limits are used: %v (%v)", test, used, err)
		}
		if wants := test.lean != "two"; (len(k.kept) == 1 && k.kept[0] == "one") != wants {
			t.Errorf("%+v: kept %q", test, k.kept)
		}
		if !test.used && !errors.Is(err, ErrOtherCluster) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// scripted is a stream that says what it is given, and ends.
type scripted struct{ messages []*leasepb.LeaderMessage }

func (s *scripted) Send(*leasepb.NodeMessage) error { return nil }

func (s *scripted) Close() {}

func (s *scripted) Recv() (*leasepb.LeaderMessage, error) {
	if len(s.messages) == 0 {
		return nil, io.EOF
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}
