package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/config/certs"
)

// testLab makes certificates, and muxes that have them.
type testLab struct {
	t   *testing.T
	dir string
	ca  *certs.Authority
	now time.Time
}

func newTestLab(t *testing.T) *testLab {
	t.Helper()
	l := &testLab{t: t, dir: t.TempDir(), now: time.Now()}
	made, err := certs.NewAuthority(l.now.AddDate(0, -1, 0), 365, nil)
	must(t, err)
	l.write("ca.pem", made.Cert)
	l.ca, err = certs.ReadAuthority(l.path("ca.pem"), l.write("ca-key.pem", made.Key), l.now)
	must(t, err)
	return l
}

func (l *testLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *testLab) write(name string, b []byte) string {
	l.t.Helper()
	must(l.t, os.WriteFile(l.path(name), b, 0o600))
	return l.path(name)
}

// set is what a node of the lab has, made days ago for as many days.
func (l *testLab) set(node string, ago, days int) *certs.Set {
	l.t.Helper()
	made, err := l.ca.Issue(certs.Request{Node: node, Days: days}, l.now.AddDate(0, 0, -ago))
	must(l.t, err)
	set, problems := certs.Read(certs.Files{CA: l.path("ca.pem"), Cert: l.write(node+".pem", made.Cert), Key: l.write(node+"-key.pem", made.Key)}, l.now)
	if set == nil {
		l.t.Fatal(problems[0])
	}
	return set
}

// muxLog is what a mux has said.
type muxLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *muxLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *muxLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *testLab) mux(node string, plain Plaintext) *mux {
	set := l.set(node, 1, 30)
	return startMux(l.t, node+".1", &security{current: func() *certs.Set { return set }, plaintext: plain}, nil)
}

func startMux(t *testing.T, id string, s *security, log *muxLog) *mux {
	t.Helper()
	logger := hclog.NewNullLogger()
	if log != nil {
		logger = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := newMux(logger, listener, listener.Addr().String(), doorOf(id, ""), s)
	m.start()
	t.Cleanup(m.close)
	return m
}

// trackedUnder is the TCP connection under what a mux hands out.
func trackedUnder(t *testing.T, conn net.Conn) *trackedConn {
	t.Helper()
	switch c := conn.(type) {
	case *trackedConn:
		return c
	case *secureConn:
		return c.held
	case *firstWord:
		return trackedUnder(t, c.Conn)
	}
	t.Fatalf("a %T", conn)
	return nil
}

// talk sends bytes both ways over a new connection.
func talk(t *testing.T, from, to *mux, k kind, target string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := from.dial(ctx, to.self, k, target)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	defer func() { _ = conn.Close(); <-done }()
	go func() {
		defer close(done)
		far, ok := acceptWithin(to, k)
		if !ok {
			return
		}
		defer func() { _ = far.Close() }()
		_, _ = io.Copy(far, far)
	}()
	if _, err := conn.Write([]byte("ping")); err != nil {
		return err
	}
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != "ping" {
		return fmt.Errorf("it answers %q", b)
	}
	return nil
}

func acceptWithin(m *mux, k kind) (net.Conn, bool) {
	select {
	case conn := <-m.subs[k].accepted:
		return conn, true
	case <-time.After(time.Second):
		return nil, false
	}
}

// TestPlaintextIsMovedToTLS: of nodes that are one step apart, each reaches each other, so that a
// running cluster can be moved.
func TestPlaintextIsMovedToTLS(t *testing.T) {
	t.Parallel()
	l := newTestLab(t)
	steps := map[string]*mux{
		"none": newTestMux(t, "x.1"), "plain": newTestMux(t, "y.1"), "send": l.mux("b", PlainSend), "accept": l.mux("c", PlainAccept), "refuse": l.mux("d", PlainRefuse),
	}
	apart := map[string][]string{"none": {"plain", "send"}, "send": {"none", "accept"}, "accept": {"send", "refuse"}, "refuse": {"accept"}}
	for from, mates := range apart {
		for _, to := range mates {
			for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
				if err := talk(t, steps[from], steps[to], k, ""); err != nil {
					t.Errorf("from %s to %s, kind %d: %v", from, to, k, err)
				}
			}
		}
	}
	for _, pair := range [][2]string{{"none", "refuse"}, {"send", "refuse"}, {"refuse", "none"}, {"accept", "none"}} {
		if err := talk(t, steps[pair[0]], steps[pair[1]], kindHTTP, ""); err == nil {
			t.Errorf("from %s to %s it works", pair[0], pair[1])
		}
	}
}

// TestRefusalsAreExplained: who may not connect is told why at both ends, once, and what to do.
func TestRefusalsAreExplained(t *testing.T) {
	t.Parallel()
	l, other := newTestLab(t), newTestLab(t)
	keep := func(set *certs.Set) *security {
		return &security{current: func() *certs.Set { return set }, plaintext: PlainRefuse}
	}
	noNode := l.set("n", 1, 30)
	stranger := l.set("s", 1, 30)
	stranger.Certificate = l.stranger()
	for name, test := range map[string]struct {
		dials                *security
		dialSays, acceptSays string
	}{
		"no TLS":     {nil, "the other node takes only TLS, and this one has none: set cluster.tls here", "the other node has no TLS, and this one takes nothing else: set cluster.tls there"},
		"another CA": {keep(other.set("b", 1, 30)), "certificate is of a CA that this one does not know", "the other node refuses this node's certificate"},
		"expired":    {keep(l.set("b", 10, 5)), "the other node finds this node's certificate expired: make a new one", "the other node's certificate has expired"},
		"no node's":  {keep(stranger), "the other node refuses this node's certificate", "the other end's certificate is not a node's: it must have the DNS name node.weir"},
	} {
		t.Run(name, func(t *testing.T) {
			var near, far muxLog
			to := startMux(t, "a.1", keep(noNode), &far)
			from := startMux(t, "b.1", test.dials, &near)
			for range 3 {
				if err := talk(t, from, to, kindHTTP, ""); err == nil {
					t.Fatal("it is let in")
				}
			}
			eventually(t, 5*time.Second, "it is told", func() bool { return strings.Contains(far.String(), test.acceptSays) })
			if got := strings.Count(near.String(), test.dialSays); got != 1 {
				t.Errorf("the one that dials says %q %d times; want once:\n%s", test.dialSays, got, &near)
			}
			if got := strings.Count(far.String(), test.acceptSays); got != 1 {
				t.Errorf("the other says %q %d times; want once:\n%s", test.acceptSays, got, &far)
			}
		})
	}
	t.Run("TLS to a node without", func(t *testing.T) {
		var near, far muxLog
		to, from := startMux(t, "a.1", nil, &far), startMux(t, "b.1", keep(noNode), &near)
		if err := talk(t, from, to, kindRaft, ""); err == nil || !strings.Contains(err.Error(), "set cluster.tls there") {
			t.Errorf("%v", err)
		}
		eventually(t, 5*time.Second, "it is told", func() bool { return strings.Contains(far.String(), "set cluster.tls here") })
	})
	t.Run("a program that is no node", func(t *testing.T) {
		var far muxLog
		to := startMux(t, "a.1", keep(noNode), &far)
		for _, conf := range []*tls.Config{{InsecureSkipVerify: true}, {InsecureSkipVerify: true, NextProtos: []string{"h2"}}, {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}} {
			conn, err := tls.Dial("tcp", to.self, conf)
			if err == nil {
				must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if err == nil || isTimeout(err) {
				t.Errorf("%+v: %v", conf, err)
			}
		}
		eventually(t, 5*time.Second, "it is told", func() bool {
			return strings.Contains(far.String(), "the other end shows no certificate") && strings.Contains(far.String(), "the other end is not a node")
		})
	})
}

// stranger is a certificate of the lab's CA, for both ends of a connection, that names no node.
func (l *testLab) stranger() tls.Certificate {
	l.t.Helper()
	made, err := l.ca.Issue(certs.Request{Node: "x", Days: 30}, l.now)
	must(l.t, err)
	pair, err := tls.X509KeyPair(made.Cert, made.Key)
	must(l.t, err)
	ca, err := tls.LoadX509KeyPair(l.path("ca.pem"), l.path("ca-key.pem"))
	must(l.t, err)
	template := *pair.Leaf
	template.DNSNames = []string{"www.example.com"}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Leaf, pair.Leaf.PublicKey, ca.PrivateKey)
	must(l.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: pair.PrivateKey}
}

// TestRaftTargetIsInTheCertificate: a server that has got another's address is not taken for it.
func TestRaftTargetIsInTheCertificate(t *testing.T) {
	t.Parallel()
	l := newTestLab(t)
	a, b := l.mux("a", PlainRefuse), l.mux("b", PlainRefuse)
	if err := talk(t, a, b, kindRaft, "b.1"); err != nil {
		t.Error(err)
	}
	if err := talk(t, a, b, kindRaft, "c.1"); !errors.Is(err, errWrongServer) {
		t.Errorf("for another node: %v", err)
	}
	if err := talk(t, a, b, kindRaft, "b.former"); err == nil {
		t.Error("for a former server of that name")
	}
}

// TestNewCertificatesAreUsedAtOnce: connections that begin go by what the files hold now, those
// that live go on.
func TestNewCertificatesAreUsedAtOnce(t *testing.T) {
	t.Parallel()
	l, next := newTestLab(t), newTestLab(t)
	var current atomic.Pointer[certs.Set]
	current.Store(l.set("a", 1, 30))
	a := startMux(t, "a.1", &security{current: current.Load, plaintext: PlainRefuse}, nil)
	b := l.mux("b", PlainRefuse)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	old, err := b.dial(ctx, a.self, kindGRPC, "")
	must(t, err)
	far, ok := acceptWithin(a, kindGRPC)
	if !ok {
		t.Fatal("no connection")
	}
	current.Store(next.set("a", 1, 30))
	if err := talk(t, b, a, kindGRPC, ""); err == nil {
		t.Error("a connection that begins goes by the former certificate")
	}
	go func() { _, _ = far.Write([]byte("still")) }()
	if _, err := io.ReadFull(old, make([]byte, 5)); err != nil {
		t.Errorf("the one that lives is broken: %v", err)
	}
	_ = old.Close()
	_ = far.Close()
}

// TestHandshakeIsBounded: who connects and says nothing, or nothing further, is let go.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	l := newTestLab(t)
	a := l.mux("a", PlainRefuse)
	for _, begun := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01"} {
		conn, err := net.Dial("tcp", a.self)
		must(t, err)
		_, err = conn.Write([]byte(begun))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(2*prefaceTimeout)))
		if _, err := io.ReadAll(conn); isTimeout(err) {
			t.Errorf("%q: still open after %v", begun, 2*prefaceTimeout)
		}
		_ = conn.Close()
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	must(t, err)
	defer func() { _ = mute.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := a.dial(ctx, mute.Addr().String(), kindHTTP, ""); err == nil {
		t.Error("a connection to nobody")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.conns) != 0 {
		t.Errorf("%d connections are left", len(a.conns))
	}
}

// TestClusterOverTLS: three servers form a cluster over TLS, commit, and replace a leader.
func TestClusterOverTLS(t *testing.T) {
	t.Parallel()
	l := newTestLab(t)
	secured := func(name string) option {
		set := l.set(name, 1, 30)
		return func(c *Config) { c.TLS = func() *certs.Set { return set } }
	}
	nodes := []*testNode{startNode(t, "a", "", secured("a"), expecting(3))}
	for _, name := range []string{"b", "c"} {
		nodes = append(nodes, startNode(t, name, "", secured(name), expecting(3), joining(nodes[0])))
	}
	leader := waitLeader(t, nodes...)
	propose(t, leader, "x")
	for _, n := range nodes {
		res, err := (&http.Client{Transport: n.RoundTripper(leader.RPCAddr()), Timeout: 5 * time.Second}).Get("http://peer/")
		must(t, err)
		_ = res.Body.Close()
	}
	conn, err := net.Dial("tcp", leader.RPCAddr())
	must(t, err)
	defer func() { _ = conn.Close() }()
	hello, err := appendPreface(nil, &clusterpb.Preface{Kind: kindHTTP})
	must(t, err)
	_, err = conn.Write(append(hello, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...))
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if answer, _ := io.ReadAll(conn); bytes.Contains(answer, []byte("HTTP")) || len(answer) > len(mismatch) {
		t.Errorf("a client without TLS is answered %q", answer)
	}
}

// TestOnlyForRPC: a connection between two nodes that have certificates, but which one of them
// takes for something else, such as its API's, is refused by the other.
func TestOnlyForRPC(t *testing.T) {
	t.Parallel()
	l := newTestLab(t)
	set := l.set("a", 0, 30)
	s := &security{current: func() *certs.Set { return set }}
	without := func(conf *tls.Config) *tls.Config {
		conf.NextProtos, conf.VerifyConnection = nil, nil
		return conf
	}
	for _, test := range []struct {
		name            string
		client, server  *tls.Config
		dials, isDialed error
	}{
		{"both for rpc", s.client(), s.server(), nil, nil},
		{"the one that dials for something else", without(s.client()), s.server(), nil, errNoRPC},
		{"the other for something else", s.client(), without(s.server()), errNoRPC, nil},
	} {
		near, far := net.Pipe()
		accepted := make(chan error, 1)
		must(t, errors.Join(near.SetDeadline(time.Now().Add(5*time.Second)), far.SetDeadline(time.Now().Add(5*time.Second))))
		go func() {
			err := tls.Server(far, test.server).Handshake()
			_ = far.Close()
			accepted <- err
		}()
		err := tls.Client(near, test.client).Handshake()
		_, _ = io.Copy(io.Discard, near) // a refusal
		_ = near.Close()
		if !errors.Is(err, test.dials) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := <-accepted; test.dials == nil && !errors.Is(err, test.isDialed) {
			t.Errorf("%s: at the other end: %v", test.name, err)
		}
	}
}
