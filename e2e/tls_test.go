package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// logs waits until a node's log has so many lines with all parts.
func (n *node) logs(t *testing.T, times int, parts ...string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("node %s says %q", n.name, parts), func() error {
		if got := len(n.lines(t, parts...)); got < times {
			return fmt.Errorf("it has said it %d times of %d", got, times)
		}
		return nil
	})
}

// lines are those of a node's log that have all parts.
func (n *node) lines(t *testing.T, parts ...string) (found []string) {
	t.Helper()
	b, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
next:
	for line := range strings.Lines(string(b)) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func TestSecuredCluster(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *secured)
	}{
		{"limits over TLS", limitsOverTLS},
		{"a client without TLS on the rpc port", plainOnRPC},
		{"a certificate of another CA", foreignCA},
		{"another gossip key", foreignKey},
		{"the CA and all certificates replaced under load", replaceCertificates},
		{"the gossip key replaced under load", replaceGossipKey},
		{"the token replaced", replaceToken},
		{"the leader killed", killSecuredLeader},
		{"no secret in a log", noSecretInLog},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, s) }) {
			break // the next goes on from here
		}
	}
}

// limitsOverTLS: the command line sets a limit over TLS, and it holds on every node.
func limitsOverTLS(t *testing.T, s *secured) {
	up := s.upstream(t)
	if _, stderr, code := s.cli(t, s.nodes[0], "limits", "set", up.name, "--connections", "2"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if out, stderr, code := s.cli(t, s.nodes[1], "limits", "get", up.name, "--json"); code != 0 || !strings.Contains(out, `"connections":2`) {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	tunnels := []*load.Tunnel{s.nodes[1].open(t, up.target), s.nodes[2].open(t, up.target)}
	s.nodes[0].refuse(t, up.target, "connection_limit_reached")
	end(t, tunnels...)
	up.peakAtMost(t, 2)
	for _, c := range []struct {
		env  []string
		says string
	}{
		{[]string{"WEIR_ADDR=https://" + s.nodes[0].api}, "--ca-file or WEIR_CA_FILE"},
		{[]string{"WEIR_ADDR=http://" + s.nodes[0].api}, "this port speaks TLS: use https://"},
	} {
		if _, stderr, code := run(t, c.env, os.Getenv(binaryVariable), "status"); code != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit code %d, %s; want %q", c.env, code, stderr, c.says)
		}
	}
	a, err := s.nodes[0].http.call("GET", "/metrics", "", nil)
	for _, listener := range []string{"rpc", "api"} {
		if err != nil || !strings.Contains(string(a.body), `weir_tls_certificate_expiry_timestamp_seconds{listener="`+listener+`"} 1.`) {
			t.Errorf("no end of the %s certificate in the metrics: %v", listener, err)
		}
	}
}

// plainOnRPC: whoever does not speak TLS there gets nothing but the end.
func plainOnRPC(t *testing.T, s *secured) {
	for _, hello := range []string{
		"GET /v1/limits HTTP/1.1\r\nHost: x\r\n\r\n",
		"weir\x01\x03\x00GET /v1/limits HTTP/1.1\r\nHost: x\r\n\r\n", // as a node without TLS would
	} {
		conn, err := net.Dial("tcp", s.nodes[0].rpc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 7 || strings.Contains(string(answer), "HTTP") {
			t.Errorf("%q is answered %q, %v", hello, answer, err)
		}
		_ = conn.Close()
	}
	s.nodes[0].logs(t, 1, "[WARN]", "the other node has no TLS", "set cluster.tls there")
}

// intrude starts a node with these files and keys that is to join another's cluster.
func (s *secured) intrude(t *testing.T, into *secured, name string) *node {
	t.Helper()
	n := into.newNode(t, name, "proxy", freePorts(t, 4))
	n.join = into.gossip()
	s.configure(t, n)
	n.writeConfig(t)
	n.start(t)
	t.Cleanup(func() { n.process.Kill(); n.checkLog(t) })
	return n
}

// foreignCA: a node with a certificate of another CA stays out, and both sides say why.
func foreignCA(t *testing.T, s *secured) {
	foreign := *s
	foreign.files = t.TempDir()
	s.weirTLS(t, "ca", "--out", foreign.files)
	s.weirTLS(t, "cert", "x", "--out", foreign.files)
	n := foreign.intrude(t, s, "x")
	n.logs(t, 1, "[WARN]", "a node can't be connected to", "of a CA that this one does not know")
	n.http = foreign.client(t, n)
	eventually(t, 10*time.Second, "its API answers", func() error { _, err := n.http.status(); return err })
	if err := n.ready(); err == nil {
		t.Error("it is ready")
	}
	said := 0
	for _, m := range s.nodes {
		said += len(m.lines(t, "[WARN]", "the other node refuses this node's certificate"))
	}
	if said == 0 {
		t.Error("no node of the cluster says that it was refused")
	}
	n.terminate(t)
}

// foreignKey: a node with another gossip key stays out, and both sides say why.
func foreignKey(t *testing.T, s *secured) {
	foreign := *s
	foreign.keys = []string{newGossipKey(t)}
	s.weirTLS(t, "cert", "y", "--out", s.files)
	n := foreign.intrude(t, s, "y")
	n.logs(t, 1, "[WARN]", "a node can't be joined", "the gossip keys differ", "cluster.gossip_key")
	eventually(t, 10*time.Second, "the cluster says it", func() error {
		for _, m := range s.nodes {
			if len(m.lines(t, "[WARN]", "a node's gossip is refused", "the gossip keys differ")) > 0 {
				return nil
			}
		}
		return errors.New("no node does")
	})
	if _, known := s.nodes[0].http.nodes(t)["y"]; known {
		t.Error("it is a member")
	}
	n.terminate(t)
}

// underLoad runs a change while workers use all nodes: none of their connections may fail or be
// cut, and no node may be lost.
func (s *secured) underLoad(t *testing.T, change func()) {
	t.Helper()
	up := s.upstream(t)
	s.setLimit(t, up.name, queued(6, 20*time.Second, 100))
	long := s.nodes[0].open(t, up.target)
	run := load.Start(load.Plan{Proxies: s.proxies(), Target: up.target, Workers: 9, Hold: 20 * time.Millisecond, Pause: 20 * time.Millisecond})
	change()
	for _, tally := range run.Stop() {
		if tally.Failed+tally.Cut+tally.Refused > 0 || tally.OK == 0 {
			t.Errorf("through %s: %d went well, %d failed, %d were cut, %d refused %v: %v", tally.Proxy, tally.OK, tally.Failed, tally.Cut, tally.Refused, tally.Reasons, tally.LastFail)
		}
	}
	mustLive(t, "a tunnel that was open all the time", long)
	end(t, long)
	up.peakAtMost(t, 6)
	for _, n := range s.nodes {
		if lost := n.lines(t, "has failed, no acks received"); len(lost) > 0 {
			t.Errorf("node %s has lost another: %s", n.name, lost[0])
		}
	}
}

// replaceCertificates follows docs/security.md: both CAs, new certificates, the new CA alone. Then
// every node is restarted, so that all connections begin anew.
func replaceCertificates(t *testing.T, s *secured) {
	ca, next := filepath.Join(s.files, "ca.pem"), t.TempDir()
	old, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	s.weirTLS(t, "ca", "--out", next)
	fresh, err := os.ReadFile(filepath.Join(next, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	step := func(each int) {
		t.Helper()
		replaced += each
		for _, n := range s.nodes {
			n.logs(t, replaced, "certificate replaced: new connections use it")
		}
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(ca, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.underLoad(t, func() {
		write(append(append([]byte{}, old...), fresh...))
		step(1)
		for _, n := range s.nodes {
			s.weirTLS(t, "cert", n.name, "--out", s.files, "--force", "--ca", filepath.Join(next, "ca.pem"))
		}
		step(2) // of the rpc and the API listener
		write(fresh)
		step(1)
	})
	for _, n := range s.nodes {
		n.http = s.client(t, n)
	}
	for _, n := range s.nodes {
		n.terminate(t)
		n.start(t)
		n.awaitReady(t, 20*time.Second)
	}
	if err := os.WriteFile(filepath.Join(s.files, s.nodes[0].name+".pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.nodes[0].logs(t, 1, "[ERROR]", "the new certificate is not taken, the old one stays in use")
	if a := s.nodes[0].http.must(t, http.StatusUnprocessableEntity, "POST", "/v1/reload", "", nil); !strings.Contains(string(a.body), "holds no certificate") {
		t.Errorf("a reload answers %s", a.body)
	}
	s.weirTLS(t, "cert", s.nodes[0].name, "--out", s.files, "--force", "--ca", filepath.Join(next, "ca.pem"))
	s.nodes[0].http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
	s.allWell(t)
}

// replaceGossipKey: in three passes of reloads, by signal and by call.
func replaceGossipKey(t *testing.T, s *secured) {
	first, second := s.keys[0], newGossipKey(t)
	passes := 0
	s.underLoad(t, func() {
		for _, keys := range [][]string{{first, second}, {second, first}, {second}} {
			s.keys = keys
			for i, n := range s.nodes {
				s.configure(t, n)
				n.writeConfig(t)
				reloads := len(n.lines(t, "reloaded: applied=", "cluster.gossip_"))
				if i == 0 {
					n.signal(t, syscall.SIGHUP)
				} else {
					n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
				}
				n.logs(t, reloads+1, "reloaded: applied=", "cluster.gossip_")
			}
			passes++
			for _, n := range s.nodes {
				for name, m := range n.http.nodes(t) {
					if m.Health != "alive" && (name == "a" || name == "b" || name == "c") {
						t.Errorf("after pass %d node %s takes %s for %s", passes, n.name, name, m.Health)
					}
				}
			}
		}
	})
	s.nodes[2].terminate(t) // and comes back with the new key alone
	s.nodes[2].start(t)
	s.nodes[2].awaitReady(t, 20*time.Second)
	s.allWell(t)
}

// replaceToken: on a reload, without a restart.
func replaceToken(t *testing.T, s *secured) {
	old := s.nodes[0].http
	if err := os.WriteFile(s.tokens["write"], []byte(newGossipKey(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range s.nodes {
		n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
		n.http = s.client(t, n)
	}
	old.must(t, http.StatusUnauthorized, "GET", "/v1/status", "", nil)
	s.allWell(t)
}

// killSecuredLeader: another takes over.
func killSecuredLeader(t *testing.T, s *secured) {
	leader, others := s.leader(t)
	leader.kill(t)
	eventually(t, normalWithin+s.shape.ttl, "another leads", func() error { _, _, err := s.agreedLeader(); return err })
	up := s.upstream(t)
	if _, stderr, code := s.cli(t, others[0], "limits", "set", up.name, "--connections", "1"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eventually(t, normalWithin, "it is admitted", func() error {
		tunnel, err := others[1].try(up.target)
		if err == nil {
			end(t, tunnel)
		}
		return err
	})
	leader.start(t)
	leader.awaitReady(t, 20*time.Second)
}

// noSecretInLog: not even at trace.
func noSecretInLog(t *testing.T, s *secured) {
	up := s.upstream(t)
	for _, n := range s.nodes {
		for _, request := range []string{"CONNECT " + up.target + " HTTP/1.1\r\nHost: x", "GET http://" + up.target + "/ HTTP/1.1\r\nHost: " + up.target} {
			conn, err := net.Dial("tcp", n.proxy)
			if err != nil {
				t.Fatal(err)
			}
			credentials := base64.StdEncoding.EncodeToString([]byte("worker:" + secretPassword))
			if _, err := fmt.Fprintf(conn, "%s\r\nProxy-Authorization: Basic %s\r\nConnection: close\r\n\r\n", request, credentials); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 12)); err != nil {
				t.Error(err)
			}
			_ = conn.Close()
		}
		n.http.must(t, http.StatusUnauthorized, "GET", "/v1/status", "", map[string]string{"Authorization": "Bearer " + secretPassword})
		secrets := map[string]string{
			"the token": s.token(t), "the gossip key": s.keys[0], "a password": secretPassword,
			"credentials": base64.StdEncoding.EncodeToString([]byte("worker:" + secretPassword)), "a private key": "PRIVATE KEY",
		}
		if raw, err := base64.StdEncoding.DecodeString(s.keys[0]); err == nil {
			secrets["the gossip key's bytes"] = string(raw)
		}
		if len(n.lines(t, "[TRACE]"))+len(n.lines(t, "[DEBUG]")) == 0 {
			t.Errorf("node %s's log is not at trace", n.name)
		}
		for what, secret := range secrets {
			if found := n.lines(t, secret); len(found) > 0 {
				t.Errorf("node %s's log holds %s: %s", n.name, what, found[0])
			}
		}
	}
}

// TestMoveToEncryption moves a running cluster from plain to encrypted, as docs/security.md has it:
// three rounds, in each of which one node after the other is restarted. Connections through a node
// that is up are never refused or cut.
func TestMoveToEncryption(t *testing.T) {
	t.Parallel()
	s := &secured{files: t.TempDir(), keys: []string{newGossipKey(t)}, tokens: map[string]string{"write": ""}}
	s.weirTLS(t, "ca", "--out", s.files)
	s.cluster = startCluster(t, shape{prepare: func(n *node) { s.weirTLS(t, "cert", n.name, "--out", s.files, "--force") }})
	up := s.upstream(t)
	s.setLimit(t, up.name, connections(2))
	for _, plaintext := range []string{"send", "accept", "refuse"} {
		for i, n := range s.nodes {
			s.configure(t, n)
			n.more = strings.Replace(n.more, "cluster {\n", fmt.Sprintf("cluster {\n  plaintext = %q\n", plaintext), 1)
			n.more = n.more[:strings.Index(n.more, "api {")] // its API stays as it is
			n.writeConfig(t)
			other := s.nodes[(i+1)%len(s.nodes)]
			held := other.open(t, up.target)
			n.terminate(t)
			second := other.open(t, up.target)
			n.start(t)
			n.awaitReady(t, 20*time.Second)
			mustLive(t, "on node "+other.name, held, second)
			n.refuse(t, up.target, "connection_limit_reached")
			end(t, held, second)
			s.awaitUse(t, up, 0)
			if plaintext != "refuse" && len(n.lines(t, "[WARN]", "traffic between nodes may be unencrypted")) == 0 {
				t.Errorf("node %s does not warn of plaintext %q", n.name, plaintext)
			}
		}
	}
	plainOnRPC(t, s)
	up.peakAtMost(t, 2)
}
