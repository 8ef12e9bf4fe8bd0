package cluster

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/handshake"
)

func TestBehindVersion(t *testing.T) {
	t.Parallel()
	const ida, idb = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	member := func(name, identity string, health Health, version uint32) Member {
		return Member{Name: name, Identity: identity, Role: RoleServer, Health: health, LogVersion: version}
	}
	servers := []raft.Server{{ID: raft.ServerID(handshake.ServerID("a", ida))}, {ID: raft.ServerID(handshake.ServerID("b", idb))}}
	a, b := member("a", ida, HealthAlive, 2), member("b", idb, HealthAlive, 2)
	proxy := Member{Name: "p", Role: RoleProxy, Health: HealthAlive}
	for what, test := range map[string]struct {
		own     uint32
		members []Member
		want    string
	}{
		"all know it":                          {2, []Member{a, b, proxy}, ""},
		"one is older":                         {2, []Member{a, member("b", idb, HealthAlive, 1)}, "b knows 1"},
		"one that is dead was older":           {2, []Member{a, member("b", idb, HealthDead, 1)}, "b knows 1"},
		"one that is dead knew it":             {2, []Member{a, member("b", idb, HealthDead, 2)}, ""},
		"one was never heard of":               {2, []Member{a}, "b has not been heard of"},
		"this one is older":                    {1, []Member{a, b}, "a knows 1"},
		"another has its name":                 {2, []Member{a, member("b", ida, HealthAlive, 2)}, ""},
		"another had its name, and is gone":    {2, []Member{a, member("b", ida, HealthDead, 2)}, "b has not been heard of"},
		"an older one is about to be added":    {2, []Member{a, b, member("c", ida, HealthAlive, 1)}, "c knows 1"},
		"one that won't be added doesn't vote": {2, []Member{a, b, member("c", ida, HealthDead, 1)}, ""},
	} {
		got := strings.Join(behindVersion(2, raft.ServerID(handshake.ServerID("a", ida)), test.own, servers, test.members), "; ")
		if got != test.want {
			t.Errorf("%s: %q, want %q", what, got, test.want)
		}
	}
}

// TestLogVersionIsGossiped: an entry of a version to come waits until the last server knows it.
func TestLogVersionIsGossiped(t *testing.T) {
	t.Parallel()
	knows := func(version uint32) option { return func(c *Config) { c.LogVersion = version } }
	base := t.TempDir()
	a := startNode(t, "a", filepath.Join(base, "a"), expecting(2), knows(3))
	b := startNode(t, "b", filepath.Join(base, "b"), expecting(2), joining(a))
	waitLeader(t, a, b)
	for need, want := range map[uint32]bool{0: true, 1: true, 2: false, 3: false} {
		if err := a.CheckLogVersion(need); (err == nil) != want || err != nil && (!errors.Is(err, ErrMixedVersions) || !strings.Contains(err.Error(), "b knows 1")) {
			t.Errorf("version %d: %v", need, err)
		}
	}
	b.halt()
	startNode(t, "b", filepath.Join(base, "b"), expecting(2), joining(a), knows(3))
	eventually(t, 10*time.Second, "b has been upgraded", func() bool { return a.CheckLogVersion(3) == nil })
	if a.CheckLogVersion(4) == nil {
		t.Error("version 4 is known to nobody")
	}
}
