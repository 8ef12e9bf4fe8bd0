package weir

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// gossiped is a cluster of which only gossip is known.
type gossiped struct {
	membership
	leader  string
	members []cluster.Member
	spread  chan string // what SetClusterDigest is given; nil: nobody looks
	digest  string      // what SetConfigDigest was given
}

func (g *gossiped) SetConfigDigest(d string) { g.digest = d }

func (g *gossiped) SetClusterDigest(d string) {
	if g.spread != nil {
		g.spread <- d
	}
}
func (g *gossiped) Members() []cluster.Member   { return g.members }
func (g *gossiped) Leader() (name, addr string) { return g.leader, "" }
func (g *gossiped) Member(name string) (cluster.Member, bool) {
	i := slices.IndexFunc(g.members, func(m cluster.Member) bool { return m.Name == name })
	if i < 0 {
		return cluster.Member{}, false
	}
	return g.members[i], true
}

// A live node whose digest in gossip differs from the cluster's is named: in the log when that
// begins, and once more when all agree again. A server compares with the log's settings, another
// node with what the leader says of them or, if it does not, with the digest of its config.
func TestDisagreementsAreSeen(t *testing.T) {
	const ttl = 10 * time.Second
	agrees, other := config.Digest(ttl, nil), config.Digest(2*ttl, nil)
	store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	young := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	init := fsm.Encode(&fsm.Init{ClusterID: "c", TTL: ttl})
	if r := store.Apply(&raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: init}).(*fsm.Result); r.Err != nil {
		t.Fatal(r.Err)
	}
	member := func(name, digest string, health cluster.Health) cluster.Member {
		return cluster.Member{Name: name, ConfigDigest: digest, Health: health}
	}
	server := func(name, digest, of string) cluster.Member {
		return cluster.Member{Name: name, ConfigDigest: digest, ClusterDigest: of, Health: cluster.HealthAlive}
	}
	live := cluster.HealthAlive
	for what, c := range map[string]struct {
		store   *fsm.Store
		leader  string
		members []cluster.Member
		want    string
	}{
		"a server: all agree":          {store, "a", []cluster.Member{member("a", agrees, live), member("b", agrees, live)}, ""},
		"a server: two do not":         {store, "a", []cluster.Member{member("c", other, live), member("a", agrees, live), member("b", other, cluster.HealthSuspect)}, "b, c"},
		"a server: the leader is one":  {store, "a", []cluster.Member{member("a", other, live), member("b", agrees, live)}, "a"},
		"the dead do not count":        {store, "a", []cluster.Member{member("b", other, cluster.HealthDead), member("c", other, cluster.HealthLeft)}, ""},
		"a node that says nothing":     {store, "a", []cluster.Member{member("b", "", live)}, ""},
		"a log without settings":       {young, "a", []cluster.Member{member("a", agrees, live), member("b", other, live)}, ""},
		"a proxy: all agree":           {nil, "a", []cluster.Member{server("a", agrees, agrees), server("b", agrees, other), member("c", agrees, live)}, ""},
		"a proxy: the leader is one":   {nil, "a", []cluster.Member{server("a", other, agrees), server("b", agrees, agrees), member("c", agrees, live)}, "a"},
		"a proxy: another than leader": {nil, "a", []cluster.Member{member("a", other, live), member("b", agrees, live), member("c", other, live)}, "b"},
		"a proxy without a leader":     {nil, "", []cluster.Member{member("a", other, live), member("b", agrees, live)}, ""},
	} {
		var log bytes.Buffer
		g := &gossiped{leader: c.leader, members: c.members}
		n := &Node{store: c.store, members: g, log: hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})}
		for range 3 {
			n.checkAgreement()
		}
		if got := strings.Join(n.disagreements(), ", "); got != c.want {
			t.Errorf("%s: %q disagree, want %q", what, got, c.want)
		}
		if c.want == "" {
			if log.Len() > 0 {
				t.Errorf("%s: it says %s", what, &log)
			}
			continue
		}
		if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "lease.ttl or limits") || !strings.Contains(said, c.want) {
			t.Errorf("%s: it says %q", what, said)
		}
		log.Reset()
		g.members = []cluster.Member{member("a", agrees, live), member("b", agrees, live), member("c", agrees, live)}
		n.reloading.Add(1)
		n.checkAgreement()
		if log.Len() > 0 {
			t.Errorf("%s: while it reloads, it says %q", what, &log)
		}
		n.reloading.Add(-1)
		for range 3 {
			n.checkAgreement()
		}
		if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "all configs agree") {
			t.Errorf("%s: once they agree, it says %q", what, said)
		}
	}
}

// After a reload a node goes by the digest of its own config, which gossip has a moment later.
func TestAReloadedNodeAgreesAtOnce(t *testing.T) {
	const ttl = 10 * time.Second
	agrees, former := config.Digest(ttl, nil), config.Digest(2*ttl, nil)
	store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	store.Commit(1, 1, &fsm.Init{ClusterID: "c", TTL: ttl})
	g := &gossiped{leader: "b", members: []cluster.Member{
		{Name: "a", ConfigDigest: former, Health: cluster.HealthAlive}, {Name: "b", ConfigDigest: agrees, Health: cluster.HealthAlive},
	}}
	n := &Node{store: store, members: g, data: cluster.MemoryDataDir("a")}
	for _, c := range []struct{ reloaded, want string }{{"", "a"}, {agrees, ""}, {former, "a"}} {
		if c.reloaded != "" {
			n.setDigest(c.reloaded)
		}
		if got := strings.Join(n.disagreements(), ", "); got != c.want || g.digest != c.reloaded {
			t.Errorf("reloaded to %q: %q disagree, want %q; it spreads %q", c.reloaded, got, c.want, g.digest)
		}
	}
}

// A reload waits for this node's own log, which may lag behind what the lease says, but not for ever.
func TestAReloadWaitsForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
		n := &Node{store: store}
		done := make(chan struct{})
		go func() { n.awaitLog(t.Context(), 2); close(done) }()
		store.Commit(1, 1, &fsm.Init{ClusterID: "c", TTL: 10 * time.Second})
		synctest.Wait()
		select {
		case <-done:
			t.Error("it has not waited")
		default:
		}
		pattern, err := limit.ParsePattern("x.org")
		if err != nil {
			t.Fatal(err)
		}
		l := limit.Limit{Pattern: pattern, Connections: 5, Source: limit.SourceConfig}
		store.Commit(2, 1, &fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{l}})
		<-done
		ctx, cancel := context.WithTimeout(t.Context(), logWait)
		defer cancel()
		n.awaitLog(ctx, 3)
		(&Node{}).awaitLog(t.Context(), 3) // without a log there is nothing to wait for
	})
}

// A server spreads the digest of what its log has, and again when that changes.
func TestClusterDigestIsSpread(t *testing.T) {
	const ttl = 10 * time.Second
	store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
	g := &gossiped{spread: make(chan string)}
	n := &Node{store: store, members: g}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.spreadDigest(ctx) }()
	if got := <-g.spread; got != "" {
		t.Errorf("before the log has settings it spreads %q", got)
	}
	pattern, err := limit.ParsePattern("x.org")
	if err != nil {
		t.Fatal(err)
	}
	l := limit.Limit{Pattern: pattern, Connections: 5, Source: limit.SourceConfig}
	for i, c := range []struct {
		do   fsm.Command
		want string
	}{
		{&fsm.Init{ClusterID: "c", TTL: ttl}, config.Digest(ttl, nil)},
		{&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{l}}, config.Digest(ttl, []limit.Limit{l})},
	} {
		if r := store.Apply(&raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: fsm.Encode(c.do)}).(*fsm.Result); r.Err != nil {
			t.Fatal(r.Err)
		}
		if got := <-g.spread; got != c.want {
			t.Errorf("after entry %d it spreads %q, want %q", i+1, got, c.want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
