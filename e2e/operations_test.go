package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/weirproxy/weir/e2e/load"
)

// TestSnapshotThroughAnyNode: saved through a proxy, restored through a follower; limits are back,
// and tunnels and slots stay.
func TestSnapshotThroughAnyNode(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{limits: "  host \"*\" {\n    connections = 50\n  }\n"})
	p := c.add(t, "p", "proxy")
	p.awaitReady(t, 15*time.Second)
	_, followers := c.leader(t)
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	file := filepath.Join(t.TempDir(), "weir.snap")
	if _, stderr, code := p.weir(t, "snapshot", "save", file); code != 0 {
		t.Fatalf("save: %d %s", code, stderr)
	}
	held := p.openMany(t, up.target, 3)
	n := followers[0]
	n.http.setLimit(t, up.name, connections(9))
	n.http.setLimit(t, "other.example", connections(1))
	n.http.setLimit(t, "*", connections(1))
	if stdout, stderr, code := n.weir(t, "snapshot", "restore", file); code != 0 || !strings.Contains(stdout, "0 added, 2 changed, 1 removed") {
		t.Fatalf("restore: %d %s%s", code, stdout, stderr)
	}
	for pattern, want := range map[string]int{up.name: 3, "*": 50} {
		if err := n.http.limitIs(pattern, want); err != nil { // at once, on the node that took it
			t.Error(err)
		}
	}
	n.http.must(t, http.StatusNotFound, "GET", limitPath("other.example"), "", nil)
	for _, other := range c.nodes {
		eventually(t, 5*time.Second, "node "+other.name+" sees it", func() error { return other.http.limitIs(up.name, 3) })
	}
	mustLive(t, "after the restore", held...)
	n.refuse(t, up.target, "connection_limit_reached")
	up.peakAtMost(t, 3)
}

// TestQuorumLostForGood: two of three servers die and their disks with them. The third is
// recovered, keeps the limits, and takes two fresh servers of the same names in. The upstream never
// sees more than its limit, though a node without Raft state, and all its tunnels, live through it.
func TestQuorumLostForGood(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 5 * time.Second})
	p := c.add(t, "p", "proxy")
	p.awaitReady(t, 15*time.Second)
	const limit = 6
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(limit))
	held := append(p.openMany(t, up.target, 3), c.nodes[0].open(t, up.target))
	survivor, lost := c.nodes[0], c.nodes[1:]
	run := load.Start(load.Plan{
		Proxies: append(c.proxies(), p.proxy), Target: up.target, Workers: 12, Hold: holdFor, Pause: 50 * time.Millisecond, Timeout: 5 * time.Second,
	})
	defer run.Stop()
	eventually(t, warmUpWithin, "load", progress(run))
	for _, n := range lost {
		n.kill(t)
		if err := os.RemoveAll(n.dataDir); err != nil {
			t.Fatal(err)
		}
	}
	if _, stderr, code := survivor.weir(t, "raft", "recover", "--config", survivor.config, "--yes"); code != 1 || !strings.Contains(stderr, "in use") {
		t.Fatalf("recover beside the running node: %d %s", code, stderr)
	}
	survivor.kill(t) // it can't hand anything over; let it be the worst
	if _, stderr, code := survivor.weir(t, "raft", "recover", "--config", survivor.config); code != 1 || !strings.Contains(stderr, "not confirmed") {
		t.Fatalf("recover without a yes: %d %s", code, stderr)
	}
	began := time.Now()
	stdout, stderr, code := survivor.weir(t, "raft", "recover", "--config", survivor.config, "--yes")
	if code != 0 || !strings.Contains(stdout, "a is the only server now") || !strings.Contains(stdout, "1 limit") {
		t.Fatalf("recover: %d %s%s", code, stdout, stderr)
	}
	if took := time.Since(began); took < c.shape.ttl {
		t.Errorf("it has waited %v; a node may use its slots for %v", took, c.shape.ttl)
	}
	for _, tunnel := range held {
		_ = tunnel.Close()
	}
	survivor.start(t)
	survivor.awaitReady(t, 15*time.Second)
	if err := survivor.http.limitIs(up.name, limit); err != nil {
		t.Error(err)
	}
	survivor.http.setLimit(t, "alone.example", connections(1))
	eventually(t, normalWithin, "the proxy node is back", p.ready)
	for _, n := range lost {
		n.start(t)
	}
	for _, n := range lost {
		n.awaitReady(t, 20*time.Second)
	}
	c.awaitVoters(t, "a", "b", "c")
	for _, n := range c.nodes {
		n.http.setLimit(t, "from-"+n.name+".example", connections(1))
	}
	eventually(t, warmUpWithin, "load through all", progress(run))
	survivor.kill(t) // and the new ones are a quorum
	eventually(t, normalWithin, "writes without the one that was recovered", func() error {
		a, err := lost[0].http.call("PUT", limitPath("later.example"), connections(1), nil)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("it answers %d: %s", a.status, a.body)
		}
		return err
	})
	if err := lost[1].http.limitIs(up.name, limit); err != nil {
		t.Error(err)
	}
	up.peakAtMost(t, limit)
}

// awaitVoters waits until exactly these servers are in the Raft configuration of each running node,
// as voters.
func (c *cluster) awaitVoters(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range c.running() {
		eventually(t, 20*time.Second, "node "+n.name+" has the voters "+strings.Join(names, ", "), func() error {
			var list struct {
				Peers []struct {
					Name, Address string
					Voter         bool
				}
			}
			if err := n.http.read("/v1/raft/peers", &list); err != nil {
				return err
			}
			var voters []string
			for _, p := range list.Peers {
				if !p.Voter {
					return fmt.Errorf("%s is no voter yet", p.Name)
				}
				voters = append(voters, p.Name)
			}
			if !slices.Equal(voters, names) {
				return fmt.Errorf("they are %v", voters)
			}
			return nil
		})
	}
}

// awaitAddress waits until the Raft configuration has n's rpc address.
func (c *cluster) awaitAddress(t *testing.T, n *node) {
	t.Helper()
	eventually(t, 15*time.Second, "the Raft configuration follows "+n.name+" to "+n.rpc, func() error {
		var list struct {
			Peers []struct{ Name, Address string }
		}
		if err := c.running()[0].http.read("/v1/raft/peers", &list); err != nil {
			return err
		}
		for _, p := range list.Peers {
			if p.Name == n.name && p.Address != n.rpc {
				return fmt.Errorf("it has %s", p.Address)
			}
		}
		return nil
	})
}

// TestServerReplaced: a server that has lost its disk comes back under its name; then another takes
// a dead one's place under a new name.
func TestServerReplaced(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	_, followers := c.leader(t)
	wiped, dead := followers[0], followers[1]
	wiped.openMany(t, up.target, 2)
	wiped.kill(t)
	if err := os.RemoveAll(wiped.dataDir); err != nil {
		t.Fatal(err)
	}
	wiped.start(t)
	wiped.awaitReady(t, 20*time.Second)
	c.awaitVoters(t, "a", "b", "c")
	if err := wiped.http.limitIs(up.name, 3); err != nil {
		t.Error(err)
	}
	d := c.add(t, "d", "server")
	d.awaitReady(t, 20*time.Second)
	dead.kill(t)
	c.nodes = append(slices.DeleteFunc(c.nodes, func(n *node) bool { return n == dead }), d)
	if _, stderr, code := d.weir(t, "raft", "remove", dead.name); code != 0 {
		t.Fatalf("remove: %d %s", code, stderr)
	}
	names := []string{"a", "b", "c", "d"}
	c.awaitVoters(t, slices.DeleteFunc(names, func(name string) bool { return name == dead.name })...)
	wiped.kill(t) // two of three are left
	eventually(t, normalWithin, "writes", func() error {
		a, err := d.http.call("PUT", limitPath("later.example"), connections(1), nil)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("it answers %d: %s", a.status, a.body)
		}
		return err
	})
	eventually(t, c.shape.ttl+reclaimSlack+normalWithin, "the slots of its former life", admits(d, up.target))
	up.peakAtMost(t, 3)
}

// TestServersMove: rpc and gossip get other ports, on one server after the other, stopped in good
// order or killed, until none has the addresses that the cluster began with. Others' config is
// changed when they move themselves. All the while, work goes on.
func TestServersMove(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	for i, n := range c.nodes {
		if i == 1 {
			n.kill(t)
		} else {
			n.terminate(t)
		}
		ports := freePorts(t, 2)
		n.rpc, n.gossip = ports[0], ports[1]
		n.join = c.gossip() // with its own new address, and the others' as they are now
		n.writeConfig(t)
		n.start(t)
		n.awaitReady(t, 20*time.Second)
		c.awaitAddress(t, n)
		c.awaitVoters(t, "a", "b", "c")
		n.http.setLimit(t, "moved-"+n.name+".example", connections(1))
		end(t, n.open(t, up.target))
	}
	leader, _ := c.leader(t)
	leader.kill(t) // the others find each other where they are now
	eventually(t, normalWithin, "another leader", func() error {
		_, _, err := c.agreedLeader()
		return err
	})
	c.running()[0].http.setLimit(t, "last.example", connections(1))
	up.peakAtMost(t, 3)
}

// TestAllServersMoveAtOnce: the whole cluster is stopped, and starts at other addresses.
func TestAllServersMoveAtOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	c.setLimit(t, "x.example", connections(4))
	for _, n := range c.nodes {
		n.kill(t)
	}
	ports := freePorts(t, 2*len(c.nodes))
	for i, n := range c.nodes {
		n.rpc, n.gossip = ports[2*i], ports[2*i+1]
	}
	for _, n := range c.nodes {
		n.join = c.gossip()
		n.writeConfig(t)
		n.start(t)
	}
	for _, n := range c.nodes {
		n.awaitReady(t, 20*time.Second)
		c.awaitAddress(t, n)
		if err := n.http.limitIs("x.example", 4); err != nil {
			t.Error(err)
		}
	}
	c.awaitVoters(t, "a", "b", "c")
}

// TestDebugHoldsNoSecrets collects from all nodes of a cluster that has every secret there is, and
// looks for them, plain and as base64.
func TestDebugHoldsNoSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const token, readToken, gossipKey = "t0p-s3cret-token", "r3ad-0nly-token", "MDEyMzQ1Njc4OWFiY2RlZg=="
	const user, password = "worker", "hunter2hunter2"
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, shape{prepare: func(n *node) {
		n.token = write("token", token+"\n")
		n.more = fmt.Sprintf("cluster {\n  gossip_key = %q\n}\napi {\n  read_token_file = %q\n}\nproxy {\n  users_file = %q\n}\n",
			gossipKey, write("read-token", readToken+"\n"), write("users", user+":"+string(hash)+"\n"))
	}})
	n := c.nodes[0]
	// Requests that carry secrets leave no trace of them either.
	header := map[string]string{"Authorization": "Bearer " + token}
	n.http.must(t, http.StatusUnauthorized, "GET", "/v1/status", "", map[string]string{"Authorization": "Bearer wr0ng-t0ken"})
	n.http.must(t, http.StatusOK, "PUT", limitPath("x.example"), connections(1), header)
	up := c.upstream(t)
	for _, credentials := range []string{user + ":" + password, user + ":wr0ng-password"} {
		if _, stderr, code := run(t, nil, "curl", "-s", "-o", os.DevNull, "-x", "http://"+credentials+"@"+n.proxy, "http://"+up.target+"/"); code != 0 {
			t.Fatalf("curl: %d %s", code, stderr)
		}
	}
	c.nodes[2].kill(t)
	file := filepath.Join(dir, "bundle.tar.gz")
	env := []string{"WEIR_ADDR=http://" + n.api, "WEIR_TOKEN=" + token}
	stdout, stderr, code := run(t, env, os.Getenv(binaryVariable), "debug", "--all", "--seconds", "1", "--out", file)
	if code != 0 {
		t.Fatalf("%d %s%s", code, stdout, stderr)
	}
	text, err := exec.Command("tar", "-xzOf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{token, readToken, gossipKey, "0123456789abcdef", "wr0ng-t0ken", "wr0ng-password", password, string(hash)} {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if strings.Contains(string(text), form) {
				t.Errorf("the archive holds %q", form)
			}
		}
	}
	list, err := exec.Command("tar", "-tzf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/a/status.json", "/a/config.json", "/a/log.txt", "/a/metrics.txt", "/a/goroutines.txt", "/a/heap.pprof", "/a/cpu.pprof",
		"/b/log.txt", "/b/cpu.pprof", "/b/system.json", "/nodes.json", "/limits.json", "/hosts.json", "/raft-peers.json", "/events.txt", "/missing.txt"} {
		if !strings.Contains(string(list), want+"\n") {
			t.Errorf("the archive has no %s:\n%s", want, list)
		}
	}
	for _, want := range []string{"c/log.txt: ", `"path":"cluster.gossip_key","value":"\"(hidden)\""`, "node started: node=b", "x.example"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the archive does not say %q", want)
		}
	}
	_, stderr, code = run(t, []string{env[0], "WEIR_TOKEN=" + readToken}, os.Getenv(binaryVariable), "debug", "--seconds", "1", "--out", file)
	if code != 0 {
		t.Errorf("with the read token: %d %s", code, stderr)
	}
	if text, _ = exec.Command("tar", "-xzOf", file).Output(); !strings.Contains(string(text), "a/log.txt: this token can only read") {
		t.Error("the read token gets the log")
	}
}

// manyLimits is a snapshot with so many limits of the API, made as docs and fsm.proto have it and
// not by weir.
func manyLimits(n int) []byte {
	field := func(b []byte, number byte, content []byte) []byte {
		b = binary.AppendUvarint(append(b, number<<3|2), uint64(len(content)))
		return append(b, content...)
	}
	number := func(b []byte, number byte, v uint64) []byte { return binary.AppendUvarint(append(b, number<<3), v) }
	body := number(field(number(nil, 1, 9), 2, []byte("elsewhere")), 3, uint64(10*time.Second))
	for i := range n {
		limit := number(field(nil, 1, fmt.Appendf(nil, "host-%06d.api.example.com", i)), 2, uint64(i%50))
		limit = field(limit, 3, number(number(nil, 1, uint64(2*time.Second)), 2, 100)) // its queue
		body = field(body, 8, number(number(limit, 6, 1), 7, 8))
	}
	file := binary.BigEndian.AppendUint64([]byte("WEIRSNAP\x00\x00\x00\x01"), uint64(len(body)))
	sum := sha256.Sum256(append(slices.Clone(file), body...))
	return append(append(file, sum[:]...), body...)
}

// TestManyLimitsAreRestored: a hundred thousand, through a node without Raft state; all nodes go by
// them, and go on.
func TestManyLimitsAreRestored(t *testing.T) {
	const many = 100_000
	c := startCluster(t, shape{ttl: 10 * time.Second})
	p := c.add(t, "p", "proxy")
	p.awaitReady(t, 15*time.Second)
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(2))
	file := filepath.Join(t.TempDir(), "many.snap")
	if err := os.WriteFile(file, manyLimits(many), 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := p.weir(t, "snapshot", "restore", file); code != 0 || !strings.Contains(stdout, "100000 added, 0 changed, 1 removed") {
		t.Fatalf("restore: %d %s%s", code, stdout, stderr)
	}
	pattern := fmt.Sprintf("host-%06d.api.example.com", many-1)
	for _, n := range append(c.nodes, p) {
		eventually(t, 20*time.Second, "node "+n.name+" sees the last of them", func() error { return n.http.limitIs(pattern, (many-1)%50) })
		n.awaitReady(t, 10*time.Second)
	}
	c.setLimit(t, up.name, connections(2))
	end(t, p.open(t, up.target))
	if _, stderr, code := c.nodes[1].weir(t, "snapshot", "save", file); code != 0 {
		t.Fatalf("save: %d %s", code, stderr)
	}
	if stdout, _, _ := p.weir(t, "snapshot", "inspect", file, "--json"); strings.Count(stdout, `"pattern"`) != many+1 {
		t.Errorf("saved again, it has %d limits", strings.Count(stdout, `"pattern"`))
	}
}

// TestExec: the command gets the variables, goes through the node, and its exit code and signals
// are its own.
func TestExec(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	stdout, stderr, code := n.weir(t, "exec", "--", "sh", "-c", "echo $HTTP_PROXY $https_proxy $ALL_PROXY $no_proxy; exit 7")
	url := "http://" + n.proxy
	host, _, _ := strings.Cut(n.api, ":") // without the port, which most clients don't understand there
	if want := strings.Join([]string{url, url, url, host}, " ") + "\n"; code != 7 || stdout != want {
		t.Errorf("exit code %d, %q %s; want %q", code, stdout, stderr, want)
	}
	before := up.Stats().Accepted
	if _, stderr, code = n.weir(t, "exec", "--", "curl", "-s", "-o", os.DevNull, "http://"+up.target+"/"); code != 0 {
		t.Errorf("curl: %d %s", code, stderr)
	}
	if up.Stats().Accepted == before {
		t.Error("curl did not reach the upstream")
	}
	if _, _, code = n.weir(t, "exec", "--", "sh", "-c", "trap 'exit 9' TERM; kill -TERM $$; sleep 10"); code != 9 {
		t.Errorf("exit code %d after a signal, want the command's own", code)
	}
}
