package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
)

// client is a client of the node while it serves on pipes.
func (n *benchNode) client(t *testing.T, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient("http://127.0.0.1:8081", token, n.transport)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClientEvents: what is remembered, then the state, then what happens; a second stream goes on
// behind the first one's events.
func TestClientEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, Config{}, "a").nodes["a"]
		stop := a.serveOnPipes(t)
		defer stop()
		c := a.client(t, "")
		a.uses = []NodeUse{use("one.org", 3)}
		a.members = []api.Node{{Name: "a", Health: "alive"}}
		a.server.events.Member("a", "server", "alive")
		var last string
		var got []string
		for n, err := range c.Events(t.Context(), api.EventQuery{}) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case n.Event != nil:
				last, got = n.ID, append(got, n.Event.Text)
			case n.Status != nil:
				got = append(got, "status of "+n.Status.Node)
			case n.Nodes != nil:
				got = append(got, fmt.Sprintf("%d nodes", len(n.Nodes.Nodes)))
			case n.Use != nil:
				got = append(got, fmt.Sprintf("%s %d", n.Use.Hosts[0].Host, n.Use.Hosts[0].InUse))
			}
			if n.Use != nil {
				break
			}
		}
		if want := []string{"a joined", "status of a", "1 nodes", "one.org 3"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		a.server.events.Leader("a", 4)
		for n, err := range c.Events(t.Context(), api.EventQuery{Types: []string{"leader", "member"}, After: last}) {
			if err != nil || n.Event == nil || n.Event.Text != "a leads" {
				t.Errorf("after coming back: %+v %v", n, err)
			}
			break
		}
	})
}

// The ways in which following ends, each with its error as the last that is yielded.
func TestClientEventsEnd(t *testing.T) {
	ends := func(t *testing.T, ctx context.Context, c *api.Client) error {
		t.Helper()
		var last error
		for n, err := range c.Events(ctx, api.EventQuery{}) {
			if last != nil {
				t.Fatalf("%+v after the error", n)
			}
			last = err
		}
		return last
	}
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
		stop := a.serveOnPipes(t)
		defer stop()
		var refused *api.Error
		if err := ends(t, t.Context(), a.client(t, "")); !errors.As(err, &refused) || refused.Status != 401 {
			t.Errorf("without a token: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := ends(t, ctx, a.client(t, "secret")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}

func TestErrorsTellWhenToComeBack(t *testing.T) {
	b := newBench(t, Config{WriteTimeout: time.Millisecond}, "a")
	b.leader = ""
	c := connect(t, b.nodes["a"], "")
	five := int64(5)
	_, err := c.PutLimit(t.Context(), api.Limit{Pattern: "x.org", Connections: &five})
	var refused *api.Error
	var p *api.Problem
	if !errors.As(err, &refused) || refused.Status != 503 || refused.RetryAfter != time.Second || refused.Code != "no_leader" || refused.Detail == "" {
		t.Errorf("%+v", err)
	}
	if !errors.As(err, &p) || p.Title != "Service Unavailable" {
		t.Errorf("%+v", p)
	}
}
