package weir

import (
	"context"
	"errors"
	"testing"

	"github.com/weirproxy/weir/api/server"
)

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
	if err := v.Leave(ctx); err != nil {
		t.Errorf("leave once more: %v", err)
	}

	stopped, err := Start(ctx, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := stopped.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := (view{stopped}).Leave(ctx); !errors.Is(err, server.ErrConflict) {
		t.Errorf("leave after the goodbye: %v, want a conflict", err)
	}
}
