package cluster

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/weirproxy/weir/cluster/clustertest"
)

// unreadable fails one of the reads of a store.
type unreadable struct {
	logStable
	fail  int64 // which read; 0: none
	reads atomic.Int64
}

func (s *unreadable) err() error {
	if s.reads.Add(1) == s.fail {
		return syscall.EIO
	}
	return nil
}

func (s *unreadable) FirstIndex() (uint64, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	return s.logStable.FirstIndex()
}

func (s *unreadable) LastIndex() (uint64, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	return s.logStable.LastIndex()
}

func (s *unreadable) GetLog(index uint64, entry *raft.Log) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.logStable.GetLog(index, entry)
}

func (s *unreadable) GetUint64(key []byte) (uint64, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	return s.logStable.GetUint64(key)
}

func (s *unreadable) Get(key []byte) ([]byte, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.logStable.Get(key)
}

// freePorts are two addresses on which nobody listens, by TCP nor by UDP.
func freePorts(t *testing.T) (rpc, gossip string) {
	t.Helper()
	n := startNode(t, "ports", "", asProxy)
	rpc, gossip = n.RPCAddr(), n.GossipAddr()
	n.halt()
	return rpc, gossip
}

// knock is what others do at a node's ports once they are bound: they connect, and gossip.
func knock(t *testing.T, rpc, gossip string) {
	send := func(network, addr string) {
		conn, err := net.Dial(network, addr)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte("w\x02 from a member that remembers this address")); err != nil {
			t.Error(err)
		}
	}
	send("tcp", rpc)
	for range 4 {
		send("tcp", gossip)
		send("udp", gossip)
	}
}

// knocking lets others knock while a node starts.
func knocking(t *testing.T, rpc, gossip string) option {
	return func(c *Config) {
		c.RPC, c.Gossip = rpc, gossip
		c.interfaceAddrs = func() ([]net.Addr, error) { // asked for when the ports are bound
			knock(t, rpc, gossip)
			return nil, nil
		}
	}
}

// tryStart starts a node as tryNode does, and stops it. The test ends if that has not returned
// after a time that no start takes.
func tryStart(t *testing.T, path string, opts ...option) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		n, err := tryNode(t, "a", path, opts...)
		if err == nil {
			n.halt()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("the start has not returned\n%s", stacks[:runtime.Stack(stacks, true)])
		return nil
	}
}

// tryStartOnFree is tryStart where nobody else should have the ports. For a moment, a connection of
// another process may.
func tryStartOnFree(t *testing.T, path string, opts ...option) (err error) {
	t.Helper()
	eventually(t, 10*time.Second, "the ports are free", func() bool {
		err = tryStart(t, path, opts...)
		return !errors.Is(err, syscall.EADDRINUSE)
	})
	return err
}

// hold takes a port, which is free or soon will be.
func hold(t *testing.T, network, addr string) (free func()) {
	t.Helper()
	var held io.Closer
	eventually(t, 10*time.Second, network+" "+addr+" is free", func() (ok bool) {
		var err error
		if network == "udp" {
			held, err = net.ListenPacket(network, addr)
		} else {
			held, err = net.Listen(network, addr)
		}
		return err == nil
	})
	return func() { must(t, held.Close()) }
}

// A start that fails says in one line what to do, leaves no goroutine and no port behind, and
// succeeds in the same process once the fault is gone.
func TestAFailedStartLeavesNothing(t *testing.T) {
	// lived leaves the directory of a server that has been one, with a snapshot.
	lived := func(t *testing.T, path string) {
		n := startNode(t, "a", path, expecting(1))
		eventually(t, 20*time.Second, "leads", func() bool { return n.leads() != 0 })
		propose(t, n, "precious")
		must(t, n.raft.Snapshot().Error())
		n.halt()
	}
	wipe := func(t *testing.T, path string) { must(t, os.RemoveAll(path)) }
	for what, fault := range map[string]struct {
		spoil func(t *testing.T, path, rpc, gossip string) (mend func())
		want  string
		is    error
	}{
		"the rpc port is taken": {
			spoil: func(t *testing.T, _, rpc, _ string) func() { return hold(t, "tcp", rpc) },
			want:  "cluster.rpc: ", is: syscall.EADDRINUSE,
		},
		"the gossip port is taken": {
			spoil: func(t *testing.T, _, _, gossip string) func() { return hold(t, "tcp", gossip) },
			want:  "cluster.gossip: ", is: syscall.EADDRINUSE,
		},
		"the gossip port is taken for UDP": {
			spoil: func(t *testing.T, _, _, gossip string) func() { return hold(t, "udp", gossip) },
			want:  "cluster.gossip: ", is: syscall.EADDRINUSE,
		},
		"another process has the log open": {
			spoil: func(t *testing.T, path, _, _ string) func() {
				lived(t, path)
				db, err := bbolt.Open(raftDB(path), 0o600, boltOptions(false))
				must(t, err)
				return func() { must(t, db.Close()) }
			},
			want: "is in use by another process: stop that one", is: ErrDataDirInUse,
		},
		"the log is damaged": {
			spoil: func(t *testing.T, path, _, _ string) func() {
				lived(t, path)
				overwrite(t, raftDB(path), bytes.Repeat([]byte("x"), 64<<10))
				return func() { wipe(t, path) }
			},
			want: "remove ",
		},
		"the snapshots are damaged": {
			spoil: func(t *testing.T, path, _, _ string) func() {
				lived(t, path)
				states, err := filepath.Glob(filepath.Join(path, raftDirectory, "snapshots", "*", "state.bin"))
				if err != nil || len(states) == 0 {
					t.Fatalf("no snapshot: %v", err)
				}
				for _, state := range states {
					overwrite(t, state, []byte("garbage"))
				}
				return func() { wipe(t, path) }
			},
			want: "remove ",
		},
	} {
		t.Run(what, func(t *testing.T) {
			rpc, gossip := freePorts(t)
			path := filepath.Join(t.TempDir(), "data")
			mend := fault.spoil(t, path, rpc, gossip)
			before := goleak.IgnoreCurrent()
			began := time.Now()
			var err error
			eventually(t, 10*time.Second, "nothing but the fault has a port", func() bool {
				err = tryStart(t, path, expecting(1), knocking(t, rpc, gossip))
				return !errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), fault.want)
			})
			t.Logf("after %v: %v", time.Since(began).Round(time.Millisecond), err)
			if err == nil || !strings.Contains(err.Error(), fault.want) || strings.Contains(err.Error(), "\n") || fault.is != nil && !errors.Is(err, fault.is) {
				t.Errorf("it fails with %v", err)
			}
			clustertest.NoLeaks(t, before)
			mend()
			hold(t, "tcp", rpc)()
			hold(t, "tcp", gossip)()
			hold(t, "udp", gossip)()
			must(t, tryStartOnFree(t, path, expecting(1), knocking(t, rpc, gossip)))
		})
	}
}

// Whichever read of its store fails while a server starts, and whatever others send it meanwhile,
// the start ends with an error and leaves nothing behind.
func TestAStartWithoutItsStoreEnds(t *testing.T) {
	rpc, gossip := freePorts(t)
	path := filepath.Join(t.TempDir(), "data")
	before := goleak.IgnoreCurrent()
	for fail := int64(1); ; fail++ {
		store := &unreadable{fail: fail}
		err := tryStartOnFree(t, path, knocking(t, rpc, gossip), func(c *Config) {
			c.wrapStore = func(s logStable) logStable { store.logStable = s; return store }
		})
		if err == nil {
			if fail < 5 {
				t.Errorf("a start reads its store %d times", fail-1)
			}
			break
		}
		if !strings.Contains(err.Error(), syscall.EIO.Error()) || !strings.Contains(err.Error(), "remove "+path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("read %d: %v", fail, err)
		}
	}
	clustertest.NoLeaks(t, before)
}

// A node that was never started can be shut down, whatever has arrived at its ports.
func TestShutdownWithoutAStart(t *testing.T) {
	before := goleak.IgnoreCurrent()
	for range 5 {
		c, err := New(Config{
			Name: "a", Role: RoleServer, Data: MemoryDataDir("a"), FSM: &testFSM{}, RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Log: testLog(t, "a"),
		})
		must(t, err)
		_, gossip := c.Listening()
		knock(t, c.RPCAddr(), gossip.String())
		must(t, c.Shutdown(t.Context()))
	}
	clustertest.NoLeaks(t, before)
}
