package server

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/weirproxy/weir/api"
)

// connect serves a bench node over real HTTP.
func connect(t *testing.T, n *benchNode, token string) *api.Client {
	t.Helper()
	srv := httptest.NewServer(n.server.Handler())
	t.Cleanup(srv.Close)
	c, err := api.NewClient(srv.URL, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func status(err error) int {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}

func TestClient(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a", "b")
	a := b.nodes["a"]
	a.list = []api.Connection{{ID: "a/1", Host: "x.org"}}
	a.uses = []NodeUse{use("x.org", 1), use("*.s.org", 2)}
	a.members = []api.Node{{Name: "a"}}
	c, ctx := connect(t, a, "secret"), t.Context()

	five := int64(5)
	for _, pattern := range []string{"x.org", "10.0.0.0/8", "*", "[::1]:443", "*.s.org"} {
		put, err := c.PutLimit(ctx, api.Limit{Pattern: pattern, Connections: &five, Queue: &api.Queue{Timeout: 1e9, Size: 2}, Shared: pattern == "*.s.org"}, api.IfAbsent())
		if err != nil || put.Pattern != pattern {
			t.Fatal(put, err)
		}
		got, err := c.Limit(ctx, "host", pattern)
		if err != nil || got.Pattern != pattern || *got.Connections != 5 || got.ModifyIndex != put.Index || *got.Queue != (api.Queue{Timeout: 1e9, Size: 2}) {
			t.Errorf("%+v %v", got, err)
		}
		if _, err := c.PutLimit(ctx, got, api.IfAbsent()); status(err) != 412 {
			t.Errorf("IfAbsent on an existing one: %v", err)
		}
		got.Connections, got.Queue = nil, nil
		if _, err := c.PutLimit(ctx, got, api.IfIndex(put.Index), api.Evict()); err != nil {
			t.Error(err)
		}
		if _, err := c.DeleteLimit(ctx, "host", pattern, api.IfIndex(put.Index)); status(err) != 412 {
			t.Errorf("IfIndex of an old one: %v", err)
		}
	}
	all, err := c.Limits(ctx)
	if err != nil || len(all.Limits) != 5 {
		t.Fatal(all, err)
	}
	dry, err := c.CompareLimits(ctx, all.Limits[1:])
	if err != nil || len(dry.Changes) != 1 || dry.Changes[0].Action != "remove" {
		t.Errorf("%+v %v", dry, err)
	}
	if _, err := c.ReplaceLimits(ctx, all.Limits[1:], api.IfIndex(dry.Index)); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteLimit(ctx, "host", "*.s.org"); err != nil {
		t.Error(err)
	}

	if h, err := c.Hosts(ctx, api.HostQuery{Prefix: "x", Sort: "in_use", Limit: 5}); err != nil || len(h.Hosts) != 1 {
		t.Errorf("%+v %v", h, err)
	}
	if h, err := c.Hosts(ctx, api.HostQuery{After: "*.s.org", Local: true}); err != nil || len(h.Hosts) != 1 {
		t.Errorf("%+v %v", h, err)
	}
	if h, err := c.Host(ctx, "*.s.org"); err != nil || h.InUse != 2 {
		t.Errorf("%+v %v", h, err)
	}
	if l, err := c.Connections(ctx, api.ConnectionQuery{Host: "x.org", Key: "x.org", Node: "*"}); err != nil || len(l.Connections) != 1 {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := c.CloseConnection(ctx, "a", "a/1"); err != nil {
		t.Error(err)
	}
	for name, call := range map[string]func() error{
		"status":   func() error { _, err := c.Status(ctx); return err },
		"nodes":    func() error { _, err := c.Nodes(ctx); return err },
		"peers":    func() error { _, err := c.RaftPeers(ctx); return err },
		"remove":   func() error { _, err := c.RemoveRaftPeer(ctx, "b"); return err },
		"transfer": func() error { _, err := c.TransferLeadership(ctx, "b"); return err },
		"drain":    func() error { _, err := c.Drain(ctx); return err },
		"undrain":  func() error { _, err := c.Undrain(ctx); return err },
		"reload":   func() error { _, err := c.Reload(ctx); return err },
		"healthy":  func() error { return c.Healthy(ctx) },
		"metrics": func() error {
			b, err := c.Metrics(ctx)
			if err == nil && !bytes.Contains(b, []byte("weir_node_info")) {
				err = fmt.Errorf("%.100q", b)
			}
			return err
		},
		"openapi": func() error {
			b, err := c.OpenAPI(ctx)
			if err == nil && !bytes.Contains(b, []byte(`"openapi"`)) {
				err = fmt.Errorf("%.100q", b)
			}
			return err
		},
		"ready": func() error { return c.Ready(ctx) },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Leave(ctx); err != nil { // last: after it there is no way back
		t.Errorf("leave: %v", err)
	}
	if _, err := connect(t, a, "wrong").Status(ctx); status(err) != 401 {
		t.Error(err)
	}
}

func TestTee(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	c := connect(t, a, "")
	var b bytes.Buffer
	if _, err := c.Tee(&b).Limits(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := a.do(try{method: "GET", path: api.PathLimits}).Body.String(); b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	if _, err := c.Tee(&b).Limit(t.Context(), "host", "x.org"); status(err) != 404 || b.Len() != 0 {
		t.Errorf("%v %q", err, b.String())
	}
}
