package weir

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// TestNodeUses: what the lease says of the resources of one name is one row, a rate is granted in
// shares of the limit's, and other scopes are left out.
func TestNodeUses(t *testing.T) {
	l := &limit.Limit{Requests: limit.Rate{Thousandths: 10_000, Per: 1e9, Burst: 10}, Bandwidth: limit.Bandwidth{Download: 8e6}}
	key := func(scope limit.Scope, r limit.Resource, name string) limit.Key {
		return limit.Key{Scope: scope, Resource: r, Name: name}
	}
	all := []lease.Use{
		{Key: key(limit.ScopeClient, limit.Download, "a"), Limit: l, Granted: limit.Shares / 4, Now: 7, Level: -3, Waiting: 2, Admitted: 70, WouldReject: 5},
		{Key: key(limit.ScopeHost, limit.Connections, "a"), InUse: 99},
		{Key: key(limit.ScopeClient, limit.Connections, "a"), Limit: l, Granted: 3, InUse: 2, Idle: 1, Waiting: 4, Admitted: 6, Rejected: 7, WouldReject: 8},
		{Key: key(limit.ScopeClient, limit.Requests, "a"), Limit: l, Granted: limit.Shares / 2, Now: 1.5, Level: 2.9, Rejected: 1},
		{Key: key(limit.ScopeClient, limit.Requests, "b"), Granted: 5}, // its limit has gone
	}
	want := []server.NodeUse{
		{
			Key: key(limit.ScopeClient, limit.Connections, "a"), Granted: 3, InUse: 2, Idle: 1, Waiting: 4, Admitted: 6, Rejected: 7, WouldReject: 8,
			Rates: map[limit.Resource]server.NodeRate{
				limit.Download: {Granted: 2e6, Now: 7, Waiting: 2, Admitted: 70, WouldReject: 5},
				limit.Requests: {Granted: 5, Now: 1.5, Available: 2.9, Rejected: 1},
			},
		},
		{Key: key(limit.ScopeClient, limit.Connections, "b"), Rates: map[limit.Resource]server.NodeRate{limit.Requests: {}}},
	}
	if diff := cmp.Diff(want, nodeUses(all, limit.ScopeClient)); diff != "" {
		t.Error(diff)
	}
}

// What a node holds is what the log has granted to its session, of this key alone.
func TestGrantedTo(t *testing.T) {
	store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	x, y := limit.HostConnections("x.org"), limit.HostConnections("y.org")
	all, err := limit.ParsePattern("*")
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []fsm.Command{
		&fsm.Init{ClusterID: "c", TTL: time.Second, Limits: []limit.Limit{{Pattern: all, Connections: 9}}},
		&fsm.OpenSession{Term: 1, Node: "a", Identity: "1"},
		&fsm.OpenSession{Term: 1, Node: "b", Identity: "2"},
		&fsm.Adjust{Term: 1, Batch: 1, Adjustments: []fsm.Adjustment{{Session: 2, Key: x, Delta: 3}, {Session: 3, Key: x, Delta: 2}, {Session: 2, Key: y, Delta: 5}}},
	} {
		store.Commit(uint64(i+1), 1, c)
	}
	v := view{&Node{store: store}}
	for node, want := range map[string]int64{"a": 3, "b": 2, "c": 0} {
		if got := v.GrantedTo(x, node); got != want {
			t.Errorf("%s holds %d slots, want %d", node, got, want)
		}
	}
	if got := (view{&Node{}}).GrantedTo(x, "a"); got != 0 {
		t.Errorf("a node without a log says %d", got)
	}
}
