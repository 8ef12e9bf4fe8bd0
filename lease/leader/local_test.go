package leader_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
)

// A node that is alone writes to its own log, and opens its session in memory.
func TestLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := fsm.NewStore(hclog.NewNullLogger(), func(err error) { t.Error(err) })
		log := leader.NewLocal(store)
		server := leader.New(log, store, func() string { return "" }, hclog.NewNullLogger())
		var ends sync.WaitGroup

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := server.Open(short, ends.Go); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stream before anybody leads: %v", err)
		}
		index, res, err := log.Append(t.Context(), 0, &fsm.Init{ClusterID: "c", TTL: time.Second})
		if err != nil || res.Err != nil || index != 1 || log.Index() != 1 {
			t.Fatalf("the first entry: index %d, %v, %v", index, err, res.Err)
		}
		life, end := context.WithCancel(t.Context())
		ends.Go(func() { server.Lead(life, leader.LocalTerm, 0) })
		stream, err := server.Open(t.Context(), ends.Go)
		if err != nil {
			t.Fatal(err)
		}
		hello := &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{
			Node: "a", Identity: "i", Protocol: leasepb.Version, LimitsVersion: leasepb.LimitsVersion, Cluster: "c", Fresh: true,
		}}}
		if err := stream.Send(hello); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || m.GetNotLeader() != nil {
			t.Errorf("the leader answers %v, %v", m, err)
		}
		stream.Close()
		if _, err := stream.Recv(); err == nil {
			t.Error("a closed stream goes on")
		}
		end()
		ends.Wait()
	})
}
