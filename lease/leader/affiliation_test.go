package leader

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// TestLeaderServesItsOwnCluster: a leader opens no session, and goes on with none, for a node of
// another cluster.
func TestLeaderServesItsOwnCluster(t *testing.T) {
	t.Parallel()
	st := fsm.NewState()
	if res := st.Apply(1, 1, &fsm.Init{ClusterID: "one", TTL: 10 * time.Second}); res.Err != nil {
		t.Fatal(res.Err)
	}
	for _, session := range []uint64{0, 7} {
		for cluster, want := range map[string]bool{"": true, "one": true, "two": false} {
			a := NewAllocator(0, 1, st)
			a.hello(0, st, 1, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: session, Cluster: cluster})
			out := a.Take()
			refused := len(out) == 1 && out[0].End && out[0].Msg.GetRefused().GetReason() == leasepb.Refused_REASON_OTHER_CLUSTER
			if refused == want {
				t.Errorf("session %d of a node of cluster %q: answered %v", session, cluster, out)
			}
			if refused && (!strings.Contains(out[0].Msg.GetRefused().Detail, "two") || !strings.Contains(out[0].Msg.GetRefused().Detail, "one")) {
				t.Errorf("the refusal does not name both clusters: %s", out[0].Msg.GetRefused().Detail)
			}
		}
	}
}
