package weir

import (
	"testing"

	"github.com/weirproxy/weir/cluster"
)

// TestLeads: the leader is meant by its name or id, but not where a former server of the same name
// could be meant.
func TestLeads(t *testing.T) {
	peers := []cluster.Peer{{ID: "a.1", Name: "a", Leader: true}, {ID: "b.1", Name: "b"}, {ID: "b.0", Name: "b"}}
	renewed := append(peers[:3:3], cluster.Peer{ID: "a.0", Name: "a"})
	for _, c := range []struct {
		peers []cluster.Peer
		name  string
		want  bool
	}{
		{peers, "a", true}, {peers, "a.1", true}, {peers, "b", false}, {peers, "b.0", false}, {peers, "c", false},
		{renewed, "a", false}, {renewed, "a.1", true}, {renewed, "a.0", false}, {nil, "a", false},
	} {
		if got := leads(c.peers, c.name); got != c.want {
			t.Errorf("%s of %v: %v, want %v", c.name, c.peers, got, c.want)
		}
	}
}
