package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// heldFSM applies nothing before it is released.
type heldFSM struct {
	raft.FSM
	applying chan struct{}
	release  chan struct{}
}

func (f *heldFSM) Apply(*raft.Log) any {
	f.applying <- struct{}{}
	<-f.release
	return nil
}

// Whoever waits for an answer of Raft's goes on when Raft has shut down, also if the question was
// still in one of Raft's channels.
func TestFuturesEndWithRaft(t *testing.T) {
	t.Parallel()
	fsm := &heldFSM{applying: make(chan struct{}, 1), release: make(chan struct{})}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogLevel = "a", "off"
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	store, snapshots := raft.NewInmemStore(), raft.NewDiscardSnapshotStore()
	addr, transport := raft.NewInmemTransport("")
	servers := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}}
	if err := raft.BootstrapCluster(conf, store, store, snapshots, transport, servers); err != nil {
		t.Fatal(err)
	}
	node, err := raft.NewRaft(conf, fsm, store, store, snapshots, transport)
	if err != nil {
		t.Fatal(err)
	}
	for !<-node.LeaderCh() {
		continue // it is alone, and leads soon
	}
	c := &Cluster{raft: node, raftEnded: make(chan struct{})}
	waiting := []raft.Future{node.Apply(nil, 0)} // the FSM holds it
	<-fsm.applying
	waiting = append(waiting, node.Apply(nil, 0), node.Barrier(0)) // behind it
	ended := node.Shutdown()
	for range 16 { // Raft accepts some of these after its end, and refuses the others
		waiting = append(waiting, node.VerifyLeader(), node.LeadershipTransfer())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, f := range waiting {
		all.Go(func() {
			if err := c.await(ctx, f); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("nobody answers a %T", f)
			}
		})
	}
	close(fsm.release)
	if err := ended.Error(); err != nil {
		t.Fatal(err)
	}
	close(c.raftEnded)
	all.Wait()
}
