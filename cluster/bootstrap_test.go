package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

func server(name string, change ...func(*Member)) Member {
	m := Member{Name: name, Identity: fmt.Sprintf("%032x", name), Role: RoleServer, Health: HealthAlive, Expect: 3}
	for _, f := range change {
		f(&m)
	}
	return m
}

func TestPlanBootstrap(t *testing.T) {
	t.Parallel()
	dead := func(m *Member) { m.Health = HealthDead }
	proxy := func(m *Member) { m.Role = RoleProxy }
	state := func(m *Member) { m.HasState = true }
	clustered := func(m *Member) { m.Cluster = "x" }
	joiner := func(m *Member) { m.Expect = 0 }
	five := func(m *Member) { m.Expect = 5 }
	leaving := func(m *Member) { m.Detached = true }
	for what, c := range map[string]struct {
		self string
		all  []Member
		want int // servers of the configuration, or 0 for waiting
	}{
		"enough, and the lowest":          {"a", []Member{server("a"), server("b"), server("c")}, 3},
		"enough, but not the lowest":      {"b", []Member{server("a"), server("b"), server("c")}, 0},
		"all that are here take part":     {"a", []Member{server("a"), server("b"), server("c"), server("d")}, 4},
		"too few":                         {"a", []Member{server("a"), server("b")}, 0},
		"a dead one doesn't count":        {"a", []Member{server("a"), server("b"), server("c", dead)}, 0},
		"a proxy doesn't count":           {"a", []Member{server("a"), server("b"), server("c", proxy)}, 0},
		"one that leaves doesn't count":   {"a", []Member{server("a"), server("b"), server("c", leaving)}, 0},
		"one that only joins is left out": {"b", []Member{server("a", joiner), server("b"), server("c"), server("d")}, 3},
		"somebody has a cluster":          {"a", []Member{server("a"), server("b"), server("c"), server("d", state)}, 0},
		"a proxy is in a cluster":         {"a", []Member{server("a"), server("b"), server("c"), server("d", proxy, clustered)}, 0},
		"they expect different numbers":   {"a", []Member{server("a"), server("b"), server("c", five)}, 0},
		"the lowest is dead":              {"b", []Member{server("a", dead), server("b"), server("c"), server("d")}, 3},
	} {
		plan := planBootstrap(server(c.self), c.all, 3)
		if plan.lead != (c.want > 0) || (plan.lead && len(plan.servers) != c.want) || plan.lead == (plan.wait != "") {
			t.Errorf("%s: lead %v with %d servers, waits because %q", what, plan.lead, len(plan.servers), plan.wait)
		}
	}
}

func TestAPledgeIsExclusiveAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	dir, err := OpenDataDir(path, "a")
	must(t, err)
	b := &ballot{dir: dir}
	first, second := pledge{Candidate: "b.1", Round: 1}, pledge{Candidate: "c.1", Round: 1}
	if _, err := b.give(first); err != nil {
		t.Fatal(err)
	}
	must(t, dir.Close())
	dir, err = OpenDataDir(path, "a")
	must(t, err)
	defer dir.Close()
	b = &ballot{dir: dir}
	if held, err := b.give(second); !errors.Is(err, errPledged) || held != first {
		t.Errorf("pledged twice: %v, %v", held, err)
	}
	must(t, b.release("b.1", 2))
	if _, err := b.give(second); !errors.Is(err, errPledged) {
		t.Errorf("another round's release freed the pledge: %v", err)
	}
	if _, err := b.give(pledge{Candidate: "b.1", Round: 2}); err != nil {
		t.Errorf("the candidate's next round: %v", err)
	}
	must(t, b.release("b.1", 2))
	if _, err := b.give(second); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestPledgesAreRefused(t *testing.T) {
	t.Parallel()
	n := startNode(t, "a", "", expecting(3))
	ask := func(change func(*clusterpb.PledgeRequest)) *clusterpb.PledgeReply {
		r := &clusterpb.PledgeRequest{Candidate: "b.1", Round: 1, BootstrapExpect: 3, Servers: []string{"b.1", n.dir.ServerID()}}
		change(r)
		reply, err := control{c: n.Cluster}.Pledge(t.Context(), r)
		must(t, err)
		return reply
	}
	for what, change := range map[string]func(*clusterpb.PledgeRequest){
		"another number is expected": func(r *clusterpb.PledgeRequest) { r.BootstrapExpect = 5 },
		"for another server":         func(r *clusterpb.PledgeRequest) { r.Servers = []string{"b.1", "a.former"} },
		"without a round":            func(r *clusterpb.PledgeRequest) { r.Round = 0 },
		"without a candidate":        func(r *clusterpb.PledgeRequest) { r.Candidate = "" },
	} {
		if reply := ask(change); reply.GetGranted() || reply.GetReason() == "" {
			t.Errorf("%s: %v", what, reply)
		}
	}
	if reply := ask(func(*clusterpb.PledgeRequest) {}); !reply.GetGranted() {
		t.Fatalf("a good request: %v", reply)
	}
	if reply := ask(func(r *clusterpb.PledgeRequest) { r.Candidate, r.Servers[0] = "c.1", "c.1" }); reply.GetGranted() {
		t.Error("a second candidate was granted a pledge")
	}
	// A round of a candidate of the same name that is another server is void: that one was wiped.
	if n.bootstrap.binding("a.former", 1) || !n.bootstrap.binding("b.1", 1) {
		t.Error("wrong idea of which rounds bind")
	}
}

func TestAVoidPledgeDoesNotStandInTheWay(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	// b has promised itself to a, in a round that a has given up and forgotten.
	a, err := OpenDataDir(filepath.Join(base, "a"), "a")
	must(t, err)
	b, err := OpenDataDir(filepath.Join(base, "b"), "b")
	must(t, err)
	_, err = (&ballot{dir: b}).give(pledge{Candidate: "a.former", Round: 7})
	must(t, err)
	_, err = (&ballot{dir: a}).give(pledge{Candidate: a.ServerID(), Round: 8})
	must(t, err)
	must(t, a.Close())
	must(t, b.Close())
	first := startNode(t, "a", filepath.Join(base, "a"), expecting(2))
	second := startNode(t, "b", filepath.Join(base, "b"), expecting(2), joining(first))
	waitLeader(t, first, second)
}

func TestFourServersThatExpectThreeFormOneCluster(t *testing.T) {
	t.Parallel()
	var nodes []*testNode
	for _, name := range []string{"d", "c", "b", "a"} {
		nodes = append(nodes, startNode(t, name, "", expecting(3), joining(nodes...)))
	}
	leader := waitLeader(t, nodes...)
	index := propose(t, leader, "x")
	eventually(t, 15*time.Second, "all four are in it", func() bool { return len(leader.Peers()) == 4 })
	for _, n := range nodes {
		waitApplied(t, n, index)
	}
}
