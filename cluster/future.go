package cluster

import (
	"context"
	"reflect"

	"github.com/hashicorp/raft"
)

// await waits for a future of Raft's until the context ends, or Raft does.
func (c *Cluster) await(ctx context.Context, f raft.Future) error {
	c.endWithRaft(f)
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endWithRaft makes a future's Error return [raft.ErrRaftShutdown], at the latest, once Raft has
// shut down. Call it before Error.
//
// Raft 1.7.3 answers no future that is in one of its channels when it shuts down: an entry on its
// way to the FSM, a request to verify the leader or to transfer leadership. Whoever waits for such a
// future waits for ever, unless it has a ShutdownCh; Raft sets that of a few kinds only. Nothing
// else reads the field.
func (c *Cluster) endWithRaft(f raft.Future) {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return // a failure, which is there at once
	}
	if end := v.Elem().FieldByName("ShutdownCh"); end.IsValid() && end.IsNil() {
		end.Set(reflect.ValueOf(c.raftEnded))
	}
}
