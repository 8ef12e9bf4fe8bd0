package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// arrival is what came of a request that waited.
type arrival struct {
	number int
	tunnel *load.Tunnel
	took   time.Duration
	err    error
}

// enqueue sends a request that will have to wait, and returns once the node counts it as the
// number-th that waits.
func enqueue(ctx context.Context, t *testing.T, n *node, up host, number int, out chan<- arrival) {
	t.Helper()
	go func() {
		begun := time.Now()
		tunnel, err := load.Connect(ctx, n.proxy, up.target)
		out <- arrival{number, tunnel, time.Since(begun), err}
	}()
	eventually(t, 2*time.Second, "the request waits", waitingIs(n, up, number))
}

func waitingIs(n *node, up host, want int) func() error {
	return func() error {
		var h hostAnswer
		if err := n.http.read("/v1/hosts/"+up.name, &h); err != nil {
			return err
		}
		if got := h.Nodes[n.name].Waiting; got != want {
			return fmt.Errorf("%d wait; want %d", got, want)
		}
		return nil
	}
}

// queueOrder: within a node, who came first is served first.
func queueOrder(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[1]
	c.setLimit(t, up.name, queued(1, 20*time.Second, 100))
	held := n.open(t, up.target)
	out := make(chan arrival, 6)
	for i := 1; i <= cap(out); i++ {
		enqueue(t.Context(), t, n, up, i, out)
	}
	end(t, held)
	for i := 1; i <= cap(out); i++ {
		got := <-out
		if got.err != nil || got.number != i {
			t.Fatalf("admitted request %d with %v; want %d", got.number, got.err, i)
		}
		end(t, got.tunnel)
	}
	up.peakAtMost(t, 1)
}

// queueTimeout: who waits gets an answer when the time is up, not earlier and not much later.
func queueTimeout(t *testing.T, c *cluster) {
	up := c.upstream(t)
	const timeout = 700 * time.Millisecond
	c.setLimit(t, up.name, queued(1, timeout, 100))
	held := c.nodes[0].open(t, up.target)
	more := time.Duration(slowness(t) * float64(time.Second))
	for _, n := range c.nodes {
		begun := time.Now()
		r := n.refuse(t, up.target, "connection_limit_reached")
		if took := time.Since(begun); took < timeout || took > timeout+more {
			t.Errorf("node %s refuses after %v; want %v and at most %v more", n.name, took, timeout, more)
		}
		if r.RetryAfter == "" {
			t.Errorf("node %s: no Retry-After", n.name)
		}
	}
	end(t, held)
}

// queueSize: who finds the queue full is refused without a wait.
func queueSize(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.setLimit(t, up.name, queued(1, 20*time.Second, 2))
	held := n.open(t, up.target)
	out := make(chan arrival, 2)
	for i := 1; i <= cap(out); i++ {
		enqueue(t.Context(), t, n, up, i, out)
	}
	most := time.Duration(slowness(t) * float64(time.Second))
	begun := time.Now()
	n.refuse(t, up.target, "connection_limit_reached")
	if took := time.Since(begun); took > most {
		t.Errorf("refused after %v; want at once", took)
	}
	end(t, held)
	for range cap(out) {
		got := <-out
		if got.err != nil {
			t.Fatal(got.err)
		}
		end(t, got.tunnel)
	}
}

// waiterGoesAway: a client that stops waiting gives its place to the next.
func waiterGoesAway(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.setLimit(t, up.name, queued(1, 20*time.Second, 2))
	held := n.open(t, up.target)
	out := make(chan arrival, 3)
	ctx, leave := context.WithCancel(t.Context())
	enqueue(ctx, t, n, up, 1, out)
	enqueue(t.Context(), t, n, up, 2, out)
	leave()
	if got := <-out; got.number != 1 || !errors.Is(got.err, context.Canceled) {
		t.Fatalf("request %d ends with %v; want the first, cancelled", got.number, got.err)
	}
	eventually(t, 2*time.Second, "its place is free", waitingIs(n, up, 1))
	end(t, held)
	got := <-out
	if got.err != nil {
		t.Fatal(got.err)
	}
	end(t, got.tunnel)
	up.peakAtMost(t, 1)
	if accepted := up.Stats().Accepted; accepted != 2 {
		t.Errorf("%d upstream connections; want 2: none for the client that left", accepted)
	}
}
