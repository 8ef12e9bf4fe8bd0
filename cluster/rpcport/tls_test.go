package rpcport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/config/certs"
)

// muxOf starts a mux that has a certificate of the lab.
func muxOf(t *testing.T, l *clustertest.Lab, node string, plain handshake.Plaintext) *mux {
	m := newMuxOf(t, l, node, plain)
	m.start()
	return m
}

// newMuxOf makes a mux that has a certificate of the lab.
func newMuxOf(t *testing.T, l *clustertest.Lab, node string, plain handshake.Plaintext) *mux {
	set := l.Set(node, 1, 30)
	return makeMux(t, node+".1", newSecurity(func() *certs.Set { return set }, plain), nil)
}

func startMux(t *testing.T, id string, s *security, log *clustertest.Log) *mux {
	t.Helper()
	m := makeMux(t, id, s, log)
	m.start()
	return m
}

func makeMux(t *testing.T, id string, s *security, log *clustertest.Log) *mux {
	t.Helper()
	logger := hclog.NewNullLogger()
	if log != nil {
		logger = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	clustertest.Must(t, err)
	m := newMux(logger, listener, listener.Addr().String(), doorOf(id, ""), s)
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
func talk(t *testing.T, from, to *mux, k handshake.Kind, target string) error {
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
	clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != "ping" {
		return fmt.Errorf("it answers %q", b)
	}
	return nil
}

func acceptWithin(m *mux, k handshake.Kind) (net.Conn, bool) {
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
	l := clustertest.NewLab(t)
	steps := map[string]*mux{
		"none": newTestMux(t, "x.1"), "plain": newTestMux(t, "y.1"), "send": muxOf(t, l, "b", handshake.PlainSend), "accept": muxOf(t, l, "c", handshake.PlainAccept), "refuse": muxOf(t, l, "d", handshake.PlainRefuse),
	}
	apart := map[string][]string{"none": {"plain", "send"}, "send": {"none", "accept"}, "accept": {"send", "refuse"}, "refuse": {"accept"}}
	for from, mates := range apart {
		for _, to := range mates {
			for _, k := range []handshake.Kind{handshake.KindRaft, handshake.KindGRPC, handshake.KindHTTP} {
				if err := talk(t, steps[from], steps[to], k, ""); err != nil {
					t.Errorf("from %s to %s, kind %d: %v", from, to, k, err)
				}
			}
		}
	}
	for _, pair := range [][2]string{{"none", "refuse"}, {"send", "refuse"}, {"refuse", "none"}, {"accept", "none"}} {
		if err := talk(t, steps[pair[0]], steps[pair[1]], handshake.KindHTTP, ""); err == nil {
			t.Errorf("from %s to %s it works", pair[0], pair[1])
		}
	}
}

// TestRefusalsAreExplained: who may not connect is told why at both ends, once, and what to do.
func TestRefusalsAreExplained(t *testing.T) {
	t.Parallel()
	l, other := clustertest.NewLab(t), clustertest.NewLab(t)
	keep := func(set *certs.Set) *security {
		return &security{current: func() *certs.Set { return set }, plaintext: handshake.PlainRefuse}
	}
	noNode := l.Set("n", 1, 30)
	stranger := l.Set("s", 1, 30)
	stranger.Certificate = l.Stranger()
	for name, test := range map[string]struct {
		dials                *security
		dialSays, acceptSays string
	}{
		"no TLS":     {nil, "the other node takes only TLS, and this one has none: set cluster.tls here", "the other node has no TLS, and this one takes nothing else: set cluster.tls there"},
		"another CA": {keep(other.Set("b", 1, 30)), "certificate is of a CA that this one does not know", "the other node refuses this node's certificate"},
		"expired":    {keep(l.Set("b", 10, 5)), "the other node finds this node's certificate expired: make a new one", "the other node's certificate has expired"},
		"no node's":  {keep(stranger), "the other node refuses this node's certificate", "the other end's certificate is not a node's: it must have the DNS name node.weir"},
	} {
		t.Run(name, func(t *testing.T) {
			var near, far clustertest.Log
			to := startMux(t, "a.1", keep(noNode), &far)
			from := startMux(t, "b.1", test.dials, &near)
			for range 3 {
				if err := talk(t, from, to, handshake.KindHTTP, ""); err == nil {
					t.Fatal("it is let in")
				}
			}
			clustertest.Eventually(t, 5*time.Second, "it is told", func() bool { return strings.Contains(far.String(), test.acceptSays) })
			if got := strings.Count(near.String(), test.dialSays); got != 1 {
				t.Errorf("the one that dials says %q %d times; want once:\n%s", test.dialSays, got, &near)
			}
			if got := strings.Count(far.String(), test.acceptSays); got != 1 {
				t.Errorf("the other says %q %d times; want once:\n%s", test.acceptSays, got, &far)
			}
		})
	}
	t.Run("TLS to a node without", func(t *testing.T) {
		var near, far clustertest.Log
		to, from := startMux(t, "a.1", nil, &far), startMux(t, "b.1", keep(noNode), &near)
		if err := talk(t, from, to, handshake.KindRaft, ""); err == nil || !strings.Contains(err.Error(), "set cluster.tls there") {
			t.Errorf("%v", err)
		}
		clustertest.Eventually(t, 5*time.Second, "it is told", func() bool { return strings.Contains(far.String(), "set cluster.tls here") })
	})
	t.Run("a program that is no node", func(t *testing.T) {
		var far clustertest.Log
		to := startMux(t, "a.1", keep(noNode), &far)
		for _, conf := range []*tls.Config{{InsecureSkipVerify: true}, {InsecureSkipVerify: true, NextProtos: []string{"h2"}}, {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}} {
			conn, err := tls.Dial("tcp", to.self, conf)
			if err == nil {
				clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if err == nil || clustertest.IsTimeout(err) {
				t.Errorf("%+v: %v", conf, err)
			}
		}
		clustertest.Eventually(t, 5*time.Second, "it is told", func() bool {
			return strings.Contains(far.String(), "the other end shows no certificate") && strings.Contains(far.String(), "the other end is not a node")
		})
	})
}

// TestRaftTargetIsInTheCertificate: a server that has got another's address is not taken for it.
func TestRaftTargetIsInTheCertificate(t *testing.T) {
	t.Parallel()
	l := clustertest.NewLab(t)
	a, b := muxOf(t, l, "a", handshake.PlainRefuse), muxOf(t, l, "b", handshake.PlainRefuse)
	if err := talk(t, a, b, handshake.KindRaft, "b.1"); err != nil {
		t.Error(err)
	}
	if err := talk(t, a, b, handshake.KindRaft, "c.1"); !errors.Is(err, handshake.ErrWrongServer) {
		t.Errorf("for another node: %v", err)
	}
	if err := talk(t, a, b, handshake.KindRaft, "b.former"); err == nil {
		t.Error("for a former server of that name")
	}
}

// TestNewCertificatesAreUsedAtOnce: connections that begin go by what the files hold now, those
// that live go on.
func TestNewCertificatesAreUsedAtOnce(t *testing.T) {
	t.Parallel()
	l, next := clustertest.NewLab(t), clustertest.NewLab(t)
	var current atomic.Pointer[certs.Set]
	current.Store(l.Set("a", 1, 30))
	a := startMux(t, "a.1", &security{current: current.Load, plaintext: handshake.PlainRefuse}, nil)
	b := muxOf(t, l, "b", handshake.PlainRefuse)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	old, err := b.dial(ctx, a.self, handshake.KindGRPC, "")
	clustertest.Must(t, err)
	far, ok := acceptWithin(a, handshake.KindGRPC)
	if !ok {
		t.Fatal("no connection")
	}
	current.Store(next.Set("a", 1, 30))
	if err := talk(t, b, a, handshake.KindGRPC, ""); err == nil {
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
	l := clustertest.NewLab(t)
	a := muxOf(t, l, "a", handshake.PlainRefuse)
	for _, begun := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01"} {
		conn, err := net.Dial("tcp", a.self)
		clustertest.Must(t, err)
		_, err = conn.Write([]byte(begun))
		clustertest.Must(t, err)
		clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(2*handshake.Timeout)))
		if _, err := io.ReadAll(conn); clustertest.IsTimeout(err) {
			t.Errorf("%q: still open after %v", begun, 2*handshake.Timeout)
		}
		_ = conn.Close()
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	clustertest.Must(t, err)
	defer func() { _ = mute.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := a.dial(ctx, mute.Addr().String(), handshake.KindHTTP, ""); err == nil {
		t.Error("a connection to nobody")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.conns) != 0 {
		t.Errorf("%d connections are left", len(a.conns))
	}
}

// TestOnlyForRPC: a connection between two nodes that have certificates, but which one of them
// takes for something else, such as its API's, is refused by the other.
func TestOnlyForRPC(t *testing.T) {
	t.Parallel()
	l := clustertest.NewLab(t)
	set := l.Set("a", 0, 30)
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
		clustertest.Must(t, errors.Join(near.SetDeadline(time.Now().Add(5*time.Second)), far.SetDeadline(time.Now().Add(5*time.Second))))
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
