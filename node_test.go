package weir_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
)

func start(t *testing.T, c weir.Config) *weir.Node {
	t.Helper()
	n, err := weir.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(ended()); err != nil {
			t.Errorf("close %s: %v", n.Name(), err)
		}
	})
	return n
}

// ended is a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func upstream(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(s.Close)
	return s
}

// get makes one request through a node's proxy, on a connection of its own.
func get(t *testing.T, n *weir.Node, url string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(n.ProxyURL()), DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A node that is alone is ready when Start returns: nothing is elected, and nothing is written. The
// first permit under a limit does not wait either. The best of several starts counts, as the machine
// may be busy.
func TestAloneIsReadyAtOnce(t *testing.T) {
	best := time.Hour
	for range 10 {
		began := time.Now()
		n, err := weir.Start(t.Context(), weir.Config{Proxy: "127.0.0.1:0", Limits: []weir.Limit{weir.HostLimit("*", 1)}})
		if err != nil {
			t.Fatal(err)
		}
		permit, err := n.Acquire(t.Context(), weir.Subject{Host: "api.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
		permit.Release()
		if p := n.Pulse(); p.Session != "live" {
			t.Errorf("after the start the session is %s", p.Session)
		}
		if n.APIURL() != nil || n.GossipAddr() != "" {
			t.Errorf("it has ports: API %v, gossip %q", n.APIURL(), n.GossipAddr())
		}
		if err := n.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if best > 20*time.Millisecond && !raceEnabled { // which make test runs by itself
		t.Errorf("the fastest of ten starts, with a permit, took %v, want at most 20ms", best)
	}
	t.Logf("ready after %v", best)
}

// A node that is to form its cluster alone does so, also where it names others to join.
func TestBootstrapExpectOneWithJoin(t *testing.T) {
	n, err := weir.Start(t.Context(), weir.Config{Cluster: &weir.Cluster{
		DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Join: []string{"127.0.0.1:1"}, BootstrapExpect: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.Ready(ctx); err != nil {
		t.Error(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A context that has ended starts nothing, and leaves nothing behind: the data directory is free.
func TestStartWithAnEndedContext(t *testing.T) {
	c := weir.Config{Name: "a", Cluster: &weir.Cluster{DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0"}}
	if n, err := weir.Start(ended(), c); !errors.Is(err, context.Canceled) || n != nil {
		t.Fatalf("started: %t, %v", n != nil, err)
	}
	start(t, c)
}

// The zero Config has no port at all.
func TestLimitsOnly(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Limits: []weir.Limit{weir.KeyLimit("k", 1)}})
	if n.ProxyURL() != nil {
		t.Errorf("it has a proxy at %v", n.ProxyURL())
	}
	p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	p.Release()
}

func TestTwoNodesInOneProcess(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	open := start(t, weir.Config{Name: "node", Proxy: "127.0.0.1:0"})
	blocked := start(t, weir.Config{Name: "node", Proxy: "127.0.0.1:0", Limits: []weir.Limit{weir.HostLimit("127.0.0.1", 0)}})
	if status, body := get(t, open, up.URL); status != 200 || body != "hello" {
		t.Errorf("through the node without limits: %d %q", status, body)
	}
	if status, _ := get(t, blocked, up.URL); status != 503 {
		t.Errorf("through the node that blocks the host: %d", status)
	}
	if err := open.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := blocked.Limits().Set(t.Context(), weir.HostLimit("127.0.0.1", 1)); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, blocked, up.URL); status != 200 {
		t.Errorf("after the other node's end: %d", status)
	}
}

// tunnel opens a tunnel to a listener through the node's proxy, and returns both ends.
func tunnel(t *testing.T, n *weir.Node) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", n.ProxyURL().Host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := io.WriteString(client, "CONNECT "+l.Addr().String()+" HTTP/1.1\r\nHost: "+l.Addr().String()+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	return client, server
}

// Close waits for what is open, and cuts it off when its context ends.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	t.Run("for a tunnel", func(t *testing.T) {
		n := start(t, weir.Config{Proxy: "127.0.0.1:0"})
		client, server := tunnel(t, n)
		if got := n.Active("127.0.0.1"); got != 1 {
			t.Errorf("%d connections are active", got)
		}
		done := make(chan error, 1)
		go func() { done <- n.Close(context.Background()) }()
		if _, err := io.WriteString(server, "x"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(io.LimitReader(client, 1)); err != nil || string(b) != "x" {
			t.Errorf("the tunnel carries %q, %v", b, err)
		}
		select {
		case err := <-done:
			t.Fatalf("Close did not wait: %v", err)
		default:
		}
		_, _ = client.Close(), server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("until its context ends", func(t *testing.T) {
		n := start(t, weir.Config{Proxy: "127.0.0.1:0"})
		client, _ := tunnel(t, n)
		if err := n.Close(ended()); err != nil {
			t.Error(err)
		}
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Error("the tunnel is still open")
		}
		if !errors.Is(n.Err(), weir.ErrClosed) {
			t.Errorf("after Close, Err is %v", n.Err())
		}
		<-n.Done()
	})
	t.Run("for a permit", func(t *testing.T) {
		n := start(t, weir.Config{})
		p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.Close(context.Background()) }()
		awaitClosing(t, n)
		select {
		case <-p.Lost():
			t.Error("the permit is lost")
		case err := <-done:
			t.Errorf("Close did not wait: %v", err)
		default:
		}
		p.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("until a second call's context ends", func(t *testing.T) {
		n := start(t, weir.Config{})
		p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.Close(context.Background()) }()
		awaitClosing(t, n)
		if err := n.Close(ended()); err != nil {
			t.Error(err)
		}
		<-p.Lost()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("and tells a permit that it is lost", func(t *testing.T) {
		n := start(t, weir.Config{})
		lost := make(chan struct{})
		release, err := n.Hold(t.Context(), netip.Addr{}, "k", func() { close(lost) })
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.Close(ended()) }()
		<-lost
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// awaitClosing waits until a node takes no new work.
func awaitClosing(t *testing.T, n *weir.Node) {
	t.Helper()
	for {
		p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"})
		switch {
		case err == nil:
			p.Release()
		case errors.Is(err, weir.ErrClosed):
			return
		case !errors.Is(err, weir.ErrDraining): // it drains before it takes no more permits
			t.Fatal(err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Limits: []weir.Limit{weir.HostLimit("config.test", 1)}})
	ctx, limits := t.Context(), n.Limits()
	listed := func() string {
		var all []string
		for _, l := range limits.List() {
			all = append(all, l.Name()+" "+l.Words())
		}
		return strings.Join(all, "; ")
	}
	check := func(what string, err, want error, list string) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", what, err, want)
		}
		if want != nil && strings.Count(err.Error(), want.Error()) != 1 {
			t.Errorf("%s: %q says %q not once", what, err, want)
		}
		if got := listed(); got != list {
			t.Errorf("%s: the limits are %q; want %q", what, got, list)
		}
	}
	check("at first", nil, nil, "config.test 1 connection")
	check("default", limits.Default(ctx, 25), nil, "* 25 connections; config.test 1 connection")
	check("cover", limits.Set(ctx, weir.HostLimit("config.test", 2)), nil, "* 25 connections; config.test 2 connections")
	check("uncover", limits.Remove(ctx, "", "config.test"), nil, "* 25 connections; config.test 1 connection")
	check("remove again", limits.Remove(ctx, "host", "gone.test"), weir.ErrNoLimit, "* 25 connections; config.test 1 connection")
	check("invalid", limits.Set(ctx, weir.HostLimit("a.test", -1)), weir.ErrInvalid, "* 25 connections; config.test 1 connection")
	check("no pattern", limits.Set(ctx, weir.HostLimit("", 1)), weir.ErrInvalid, "* 25 connections; config.test 1 connection")
	check("remove no pattern", limits.Remove(ctx, "", ""), weir.ErrInvalid, "* 25 connections; config.test 1 connection")
	check("remove a pattern that total has not", limits.Remove(ctx, "total", "x"), weir.ErrInvalid, "* 25 connections; config.test 1 connection")
	check("there already", limits.Set(ctx, weir.HostLimit("*", 1), weir.IfAbsent()), weir.ErrChanged, "* 25 connections; config.test 1 connection")
	check("replace", limits.Replace(ctx, []weir.Limit{weir.KeyLimit("k", 1)}), nil, "key k 1 connection")
	check("cancelled", limits.Default(ended(), 1), context.Canceled, "key k 1 connection")
	got, err := limits.Get(ctx, "key", "k")
	if err != nil || *got.Connections != 1 || got.ModifyIndex == 0 {
		t.Errorf("get: %+v, %v", got, err)
	}
	check("changed meanwhile", limits.Set(ctx, weir.KeyLimit("k", 2), weir.IfIndex(got.ModifyIndex-1)), weir.ErrChanged, "key k 1 connection")
	check("as it was read", limits.Set(ctx, weir.KeyLimit("k", 2), weir.IfIndex(got.ModifyIndex)), nil, "key k 2 connections")
	check("evict what is removed", limits.Remove(ctx, "key", "k", weir.Evict()), weir.ErrInvalid, "key k 2 connections")
	if _, err := limits.Get(ctx, "", "k"); !errors.Is(err, weir.ErrNoLimit) {
		t.Errorf("get what is not there: %v", err)
	}
	if _, err := limits.Get(ctx, "", ""); !errors.Is(err, weir.ErrInvalid) {
		t.Errorf("get what can't be: %v", err)
	}
	var refused *api.Error
	if err := limits.Remove(ctx, "host", "gone.test"); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("the API's own error is lost: %v", err)
	}
}

// The limits of a closed node can't be read or written: its state has ended, so a call says that at
// once and does not ask the API, which would wait for a write to become visible.
func TestLimitsOfAClosedNode(t *testing.T) {
	n := start(t, weir.Config{Limits: []weir.Limit{weir.HostLimit("up", 1)}})
	l, ctx := n.Limits(), t.Context()
	if err := n.Close(ended()); err != nil {
		t.Fatal(err)
	}
	_, err := l.Get(ctx, "", "up")
	for call, err := range map[string]error{
		"Get": err, "Set": l.Set(ctx, weir.HostLimit("up", 2)), "Default": l.Default(ctx, 3),
		"Replace": l.Replace(ctx, nil), "Remove": l.Remove(ctx, "", "up"),
	} {
		var asked *api.Error
		if !errors.Is(err, weir.ErrClosed) || errors.As(err, &asked) {
			t.Errorf("%s: %v, want ErrClosed alone", call, err)
		}
	}
	if _, err := n.Reload(ctx); !errors.Is(err, weir.ErrClosed) {
		t.Errorf("Reload: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	set := func(f func(*config.Config)) weir.Config { return weir.Config{Settings: f} }
	for _, c := range []struct {
		config weir.Config
		want   []string
	}{
		{weir.Config{Name: "no name"}, []string{"name: "}},
		{weir.Config{Proxy: "127.0.0.1"}, []string{"proxy.listen: "}},
		{weir.Config{Proxy: "0.0.0.0:0"}, []string{"allow_clients is not set"}},
		{weir.Config{API: "0.0.0.0:0"}, []string{"there is no token"}},
		{weir.Config{Proxy: "127.0.0.1:7", API: "127.0.0.1:7"}, []string{"listen on the same port"}},
		{weir.Config{Limits: []weir.Limit{weir.HostLimit("a b", 1), weir.HostLimit("c.test", 1), weir.HostLimit("c.test", 2)}}, []string{"limit 0", "two limits for c.test"}},
		{weir.Config{Cluster: &weir.Cluster{}}, []string{"a server needs data_dir"}},
		{weir.Config{Cluster: &weir.Cluster{Role: "queen"}}, []string{"role: "}},
		{set(func(c *config.Config) { c.Role = config.RoleProxy }), []string{"set Config.Cluster"}},
		{set(func(c *config.Config) { c.Cluster.Join = []string{"192.0.2.1:8083"} }), []string{"set Config.Cluster"}},
		{set(func(c *config.Config) { c.Lease.TTL = time.Millisecond }), []string{"lease.ttl: "}},
		{set(func(c *config.Config) { c.Proxy.RejectStatus = 200; c.Proxy.UsersFile = "/none" }), []string{"proxy.reject_status: ", "/none"}},
	} {
		n, err := weir.Start(t.Context(), c.config)
		var bad *weir.ConfigError
		if !errors.As(err, &bad) || n != nil {
			t.Errorf("%v: %v, %v", c.want, n, err)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
	if n, err := weir.Start(t.Context(), weir.Config{Proxy: taken.Addr().String()}); err == nil || n != nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("on a port that is taken: %v, %v", n, err)
	}
}

// The API is there where it is asked for: on a listener, or as a handler.
func TestAPI(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Name: "n", API: "127.0.0.1:0", Settings: func(c *config.Config) { c.API.Token = "secret" }})
	own := httptest.NewServer(n.Handler())
	defer own.Close()
	for _, addr := range []string{n.APIURL().String(), own.URL} {
		client, err := api.NewClient(addr, "secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err := client.Status(t.Context())
		if err != nil || st.Node != "n" || !st.Ready || st.Leader != "n" || st.ProxyAddr != "" {
			t.Errorf("%s: %+v, %v", addr, st, err)
		}
		client.CloseIdle()
		resp, err := http.Get(addr + "/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without the token: %s", addr, resp.Status)
		}
	}
	if err := n.Limits().Default(t.Context(), 3); err != nil {
		t.Errorf("the program itself needs no token: %v", err)
	}
	// Without a listener, the page and its events work too.
	quiet := start(t, weir.Config{})
	other := httptest.NewServer(quiet.Handler())
	defer other.Close()
	for _, path := range []string{"/ui/", "/metrics", "/v1/nodes", "/v1/raft/peers"} {
		resp, err := http.Get(other.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// A node that is alone needs no other to reload, drain, or be asked to leave.
func TestAloneThroughTheAPI(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{API: "127.0.0.1:0"})
	client, err := api.NewClient(n.APIURL().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdle()
	if _, err := client.Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
	if _, err := client.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	if _, err := n.Acquire(t.Context(), weir.Subject{Key: "k"}); !errors.Is(err, weir.ErrDraining) {
		t.Errorf("a permit while it drains: %v", err)
	}
	if _, err := client.Undrain(t.Context()); err != nil {
		t.Errorf("undrain: %v", err)
	}
	if p, err := n.Acquire(t.Context(), weir.Subject{Key: "k"}); err != nil {
		t.Errorf("a permit after it: %v", err)
	} else {
		p.Release()
	}
	if _, err := client.Leave(t.Context()); err != nil {
		t.Errorf("leave: %v", err)
	}
	<-n.Done()
	if !errors.Is(n.Err(), weir.ErrLeave) {
		t.Errorf("after the call the node must stop because of %v", n.Err())
	}
}
