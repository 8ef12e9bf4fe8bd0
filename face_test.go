package weir_test

import (
	"context"
	"errors"
	"testing"

	"github.com/weirproxy/weir"
)

// givenUp is a context that has ended with a cause.
func givenUp(cause error) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return ctx
}

// Of a context that has ended with a cause, an error is known by both. A node that has ended says
// that instead.
func TestAnEndedContextsErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("the user has had enough")
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("%s: %v; want both the context's error and its cause", what, err)
		}
	}
	_, err := weir.Start(givenUp(cause), weir.Config{})
	check("Start", err)

	lonely := weir.Config{Cluster: &weir.Cluster{
		DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Join: []string{"127.0.0.1:1"}}}
	n := start(t, lonely)
	check("Ready", n.Ready(givenUp(cause)))
	check("Limits", n.Limits().Default(givenUp(cause), 1))
	if err := n.Ready(ended()); !errors.Is(err, context.Canceled) {
		t.Errorf("Ready, without a cause: %v", err)
	}
	if err := n.Close(ended()); err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []context.Context{t.Context(), givenUp(cause)} {
		if err := n.Ready(ctx); !errors.Is(err, weir.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, cause) {
			t.Errorf("Ready of a closed node: %v", err)
		}
	}
}
