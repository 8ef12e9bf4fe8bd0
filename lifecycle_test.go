package weir

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/cluster"
)

// needed is a cluster that may not be left.
type needed struct{ membership }

func (needed) CheckLeave() error { return fmt.Errorf("%w: start b", cluster.ErrUnsafe) }

// A node that its cluster's quorum needs is not made to leave, and goes on.
func TestLeaveThatCostsTheQuorum(t *testing.T) {
	n := &Node{members: needed{}}
	n.must, n.stop = context.WithCancelCause(t.Context())
	if err := (view{n}).Leave(t.Context()); !errors.Is(err, server.ErrConflict) || !strings.Contains(err.Error(), "start b") {
		t.Errorf("leave: %v, want a conflict", err)
	}
	if n.isStopping() || n.Err() != nil {
		t.Errorf("it stops all the same: %v", n.Err())
	}
}

// A node that a signal stops does not leave its cluster, and does not say so. Until its connections
// and permits have ended it can still be made to leave; from then on that is refused.
func TestLeaveWhileStopping(t *testing.T) {
	t.Parallel()
	n, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	v, ctx := view{n}, t.Context()
	p, err := n.Acquire(ctx, Subject{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- n.Close(context.Background()) }()
	for !v.isStopping() {
		if ctx.Err() != nil {
			t.Fatal("it does not stop")
		}
	}
	if st := v.Status(); st.Leaving || !st.Draining {
		t.Errorf("stopping: leaving %v and draining %v, want only the second", st.Leaving, st.Draining)
	}
	for range 2 { // the second call changes nothing
		if err := v.Leave(ctx); err != nil {
			t.Errorf("leave while it drains: %v", err)
		}
	}
	if st := v.Status(); !st.Leaving || !st.Draining {
		t.Errorf("leaving: leaving %v and draining %v, want both", st.Leaving, st.Draining)
	}
	p.Release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := v.Leave(ctx); err != nil || !v.Status().Left {
		t.Errorf("leave once more: %v; it has left: %v", err, v.Status().Left)
	}

	stopped, err := Start(ctx, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := stopped.Close(ctx); err != nil {
		t.Error(err)
	}
	v = view{stopped}
	if err := v.Leave(ctx); !errors.Is(err, server.ErrConflict) || v.Status().Left {
		t.Errorf("leave after the goodbye: %v, want a conflict; it has left: %v", err, v.Status().Left)
	}
}
