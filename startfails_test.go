package weir_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirproxy/weir"
)

// patience is longer than any start takes, and any other process's connection that has a port.
const patience = 20 * time.Second

// bind takes a port for TCP or UDP. For a moment, a connection of another process may have it.
func bind(t *testing.T, network, addr string) (held io.Closer, at string) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if network == "udp" {
			var c net.PacketConn
			if c, err = net.ListenPacket(network, addr); err == nil {
				return c, c.LocalAddr().String()
			}
		} else {
			var l net.Listener
			if l, err = net.Listen(network, addr); err == nil {
				return l, l.Addr().String()
			}
		}
		if time.Now().After(until) {
			t.Fatalf("the port is not free: %v", err)
		}
	}
}

// A start that fails says what to do, in one line, and leaves nothing behind: no goroutine, no
// port, no lock. Once the fault is gone, the next start in the same process succeeds.
func TestAFailedStartLeavesNothing(t *testing.T) {
	type ports struct{ proxy, api, rpc, gossip string }
	taken := func(network string, which func(ports) string) func(*testing.T, ports, string) func() {
		return func(t *testing.T, p ports, _ string) func() {
			held, _ := bind(t, network, which(p))
			return func() { _ = held.Close() }
		}
	}
	for what, fault := range map[string]struct {
		spoil func(t *testing.T, p ports, dir string) (mend func())
		want  string
		is    error
	}{
		"proxy port":          {taken("tcp", func(p ports) string { return p.proxy }), "proxy.listen: ", syscall.EADDRINUSE},
		"api port":            {taken("tcp", func(p ports) string { return p.api }), "api.listen: ", syscall.EADDRINUSE},
		"rpc port":            {taken("tcp", func(p ports) string { return p.rpc }), "cluster.rpc: ", syscall.EADDRINUSE},
		"gossip port":         {taken("tcp", func(p ports) string { return p.gossip }), "cluster.gossip: ", syscall.EADDRINUSE},
		"gossip port for UDP": {taken("udp", func(p ports) string { return p.gossip }), "cluster.gossip: ", syscall.EADDRINUSE},
		"raft log": {func(t *testing.T, _ ports, dir string) func() {
			n, err := weir.Start(t.Context(), weir.Config{Name: "node", Cluster: &weir.Cluster{DataDir: filepath.Join(dir, "data"), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Close(ended()); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(dir, "data", "raft", "raft.db")
			if err := os.WriteFile(log, []byte(strings.Repeat("x", 64<<10)), 0o600); err != nil {
				t.Fatal(err)
			}
			return func() { _ = os.RemoveAll(filepath.Join(dir, "data")) }
		}, "is damaged", nil},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			var p ports
			for _, at := range []*string{&p.proxy, &p.api, &p.rpc, &p.gossip} {
				var held io.Closer
				held, *at = bind(t, "tcp", "127.0.0.1:0")
				_ = held.Close()
			}
			try := func() error {
				done := make(chan error, 1)
				go func() {
					n, err := weir.Start(context.Background(), weir.Config{
						Name: "node", Proxy: p.proxy, API: p.api,
						Cluster: &weir.Cluster{DataDir: filepath.Join(dir, "data"), RPC: p.rpc, Gossip: p.gossip},
					})
					if err == nil {
						err = n.Close(ended())
					}
					done <- err
				}()
				select {
				case err := <-done:
					return err
				case <-time.After(patience):
					t.Fatal("the start, or the end, has not returned")
					return nil
				}
			}
			mend := fault.spoil(t, p, dir)
			before := goleak.IgnoreCurrent()
			err := try()
			for until := time.Now().Add(patience); errors.Is(err, syscall.EADDRINUSE) && !strings.Contains(err.Error(), fault.want) && time.Now().Before(until); {
				err = try() // another port was taken for a moment
			}
			if err == nil || !strings.Contains(err.Error(), fault.want) || strings.Contains(err.Error(), "\n") || fault.is != nil && !errors.Is(err, fault.is) {
				t.Errorf("it fails with %v", err)
			}
			if err := goleak.Find(before); err != nil {
				t.Error(err)
			}
			mend()
			for _, at := range []string{p.proxy, p.api, p.rpc, p.gossip} {
				held, _ := bind(t, "tcp", at)
				_ = held.Close()
			}
			held, _ := bind(t, "udp", p.gossip)
			_ = held.Close()
			until := time.Now().Add(patience)
			for err = try(); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(until); err = try() {
			}
			if err != nil {
				t.Errorf("once mended: %v", err)
			}
		})
	}
}

// Of two nodes with one data directory in a process, the second is told so, and can have it once
// the first is closed.
func TestTwoNodesWithOneDataDir(t *testing.T) {
	t.Parallel()
	c := weir.Config{Name: "node", Cluster: &weir.Cluster{DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0"}}
	first := start(t, c)
	n, err := weir.Start(t.Context(), c)
	if n != nil || !errors.Is(err, weir.ErrDataDirInUse) ||
		!strings.Contains(err.Error(), "is in use by another node of this process: close that one") || strings.Contains(err.Error(), "\n") {
		t.Errorf("started: %t, %v", n != nil, err)
	}
	if err := first.Close(ended()); err != nil {
		t.Fatal(err)
	}
	start(t, c)
}
