package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

func use(name string, n int64) NodeUse {
	return NodeUse{Key: limit.HostConnections(name), Granted: n + 1, InUse: n, Waiting: 2 * n, Admitted: uint64(10 * n), Rejected: uint64(n % 3)}
}

func TestHostsAddUp(t *testing.T) {
	b := newBench(t, Config{}, "a", "b", "c")
	get[api.LimitWritten](t, b.nodes["a"].do(put("api.org", `{"connections":9}`)))
	b.nodes["a"].uses = []NodeUse{use("api.org", 1), use("free.org", 5)}
	b.nodes["b"].uses = []NodeUse{use("api.org", 2)}
	b.nodes["c"].uses = []NodeUse{use("only-c.org", 1)}
	b.nodes["b"].set(func() { b.nodes["b"].table = b.tableNow() })
	b.nodes["c"].set(func() { b.nodes["c"].down = true })

	got := get[api.Hosts](t, b.nodes["b"].do(try{method: "GET", path: api.PathHosts}))
	nine := int64(9)
	want := api.Hosts{
		Hosts: []api.Host{
			{Host: "api.org", Pattern: "api.org", Use: api.Use{Limit: &nine, Granted: 5, InUse: 3, Waiting: 6, Admitted: 30, Rejected: 3}, Nodes: map[string]api.Use{
				"a": {Limit: &nine, Granted: 2, InUse: 1, Waiting: 2, Admitted: 10, Rejected: 1},
				"b": {Limit: &nine, Granted: 3, InUse: 2, Waiting: 4, Admitted: 20, Rejected: 2},
			}},
			{Host: "free.org", Use: api.Use{Granted: 6, InUse: 5, Waiting: 10, Admitted: 50, Rejected: 2}, Nodes: map[string]api.Use{
				"a": {Granted: 6, InUse: 5, Waiting: 10, Admitted: 50, Rejected: 2},
			}},
		},
		Unreachable: got.Unreachable,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(got.Unreachable) != 1 || got.Unreachable[0].Node != "c" || got.Unreachable[0].Error == "" {
		t.Errorf("unreachable: %+v", got.Unreachable)
	}

	one := get[api.Host](t, b.nodes["b"].do(try{method: "GET", path: api.PathHosts + "/API.org."}))
	want.Hosts[0].Unreachable = one.Unreachable
	if diff := cmp.Diff(want.Hosts[0], one); diff != "" || len(one.Unreachable) != 1 {
		t.Error(diff, one.Unreachable)
	}
	local := get[api.Hosts](t, b.nodes["b"].do(try{method: "GET", path: api.PathHosts + "?local=true"}))
	if len(local.Hosts) != 1 || local.Hosts[0].InUse != 2 || local.Unreachable != nil {
		t.Errorf("local: %+v", local)
	}
	// A peer's question is never asked on.
	w := b.nodes["b"].serve(b.nodes["b"].server.PeerHandler(), try{method: "GET", path: api.PathHosts})
	if diff := cmp.Diff(local, get[api.Hosts](t, w)); diff != "" {
		t.Error(diff)
	}
}

func TestOneHost(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["a"]
	for pattern, body := range map[string]string{
		"*":               `{"connections":25}`,
		"api.org:443":     `{"connections":3}`,
		"*.shared.org":    `{"connections":4,"shared":true}`,
		"10.0.0.0/8":      `{"connections":6,"shared":true}`,
		"open.org":        `{}`,
		"*.separate.org":  `{"connections":2}`,
		"[2001:db8::]:80": `{"connections":1}`,
	} {
		get[api.LimitWritten](t, a.do(put(pattern, body)))
	}
	b.nodes["b"].set(func() { b.nodes["b"].table = b.tableNow() })
	b.nodes["b"].uses = []NodeUse{use("10.0.0.0/8", 2), use("*.shared.org", 3), use("[2001:db8::]:80", 1)}
	for _, c := range []struct {
		path, host string
		limit      any
		inUse      int64
	}{
		{"new.org", "new.org", int64(25), 0},
		{"NEW.ORG.", "new.org", int64(25), 0},
		{"api.org", "api.org", int64(25), 0},
		{"api.org:443", "api.org:443", int64(3), 0},
		{"api.org:80", "api.org", int64(25), 0},
		{"x.shared.org", "*.shared.org", int64(4), 3},
		{"*.shared.org", "*.shared.org", int64(4), 3},
		{"10.1.2.3", "10.0.0.0/8", int64(6), 2},
		{"10.0.0.0%2F8", "10.0.0.0/8", int64(6), 2},
		{"open.org", "open.org", nil, 0},
		{"x.separate.org", "x.separate.org", int64(2), 0},
		{"2001:DB8::0", "2001:db8::", int64(25), 0},
		{"[2001:db8::]:80", "[2001:db8::]:80", int64(1), 1},
	} {
		h := get[api.Host](t, a.do(try{method: "GET", path: api.PathHosts + "/" + c.path}))
		var limit any
		if h.Limit != nil {
			limit = *h.Limit
		}
		if h.Host != c.host || limit != c.limit || h.InUse != c.inUse || len(h.Nodes) != 2 {
			t.Errorf("%s: %+v limit %v", c.path, h, limit)
		}
	}
	for _, path := range []string{"a..b", "*.separate.org", "*.nowhere.org", "x%20y", "api.org:0", "1.2.3.4.5"} {
		refused(t, a.do(try{method: "GET", path: api.PathHosts + "/" + path}), 422, "")
	}
	refused(t, a.do(try{method: "GET", path: api.PathHosts + "/x.org?local=perhaps"}), 400, "local")
}

// Whatever the order and the page's size, the pages together are all hosts, once each, in that
// order.
func TestHostPages(t *testing.T) {
	b := newBench(t, Config{}, "a", "b", "c")
	for i := range 24 {
		name := fmt.Sprintf("h%02d.org", (i*37)%24)
		b.nodes[string(rune('a'+i%3))].uses = append(b.nodes[string(rune('a'+i%3))].uses, use(name, int64(i%7)))
		if i%4 == 0 {
			b.nodes[string(rune('a'+(i+1)%3))].uses = append(b.nodes[string(rune('a'+(i+1)%3))].uses, use(name, 3))
		}
	}
	key := map[string]func(api.Host) uint64{"host": func(api.Host) uint64 { return 0 }}
	for order, f := range useCounts() {
		key[order] = func(h api.Host) uint64 { return f(h.Use) }
	}
	for order, count := range key {
		for _, size := range []int{-7, 1, 7, 23, 24, 25} {
			byHost := size < 0 // the last host is sent as it is shown, not Next
			size = max(size, -size)
			var all []api.Host
			for after, page := "", 0; after != "" || page == 0; page++ {
				path := fmt.Sprintf("%s?sort=%s&limit=%d&after=%s", api.PathHosts, order, size, after)
				h := get[api.Hosts](t, b.nodes["b"].do(try{method: "GET", path: path}))
				if len(h.Hosts) > size || page > 24 {
					t.Fatalf("%s: %d hosts on page %d", path, len(h.Hosts), page)
				}
				all = append(all, h.Hosts...)
				if after = h.Next; byHost && after != "" {
					after = strings.ToUpper(h.Hosts[size-1].Host)
				}
			}
			sorted := slices.IsSortedFunc(all, func(x, y api.Host) int {
				if x, y := count(x), count(y); x != y {
					return map[bool]int{true: -1, false: 1}[x > y]
				}
				return strings.Compare(x.Host, y.Host)
			})
			var sum int64
			for _, h := range all {
				sum += h.InUse
			}
			if len(all) != 24 || !sorted || sum != wantInUse(b) {
				t.Errorf("sort=%s limit=%d: %d hosts, sorted: %v, in use %d", order, size, len(all), sorted, sum)
			}
		}
	}
	got := get[api.Hosts](t, b.nodes["c"].do(try{method: "GET", path: api.PathHosts + "?prefix=H1&sort=in_use&limit=3"}))
	if len(got.Hosts) != 3 || !strings.HasPrefix(got.Hosts[2].Host, "h1") || got.Next == "" {
		t.Errorf("%+v", got)
	}
	for _, q := range []string{"sort=size", "limit=0", "limit=x", "limit=10001", "limit=-1", "sort=in_use&after=h01..org", "local=yes", "filter=x"} {
		refused(t, b.nodes["a"].do(try{method: "GET", path: api.PathHosts + "?" + q}), 400, "")
	}
	b.nodes["a"].uses, b.nodes["c"].uses = nil, nil
	if h := get[api.Hosts](t, b.nodes["c"].do(try{method: "GET", path: api.PathHosts + "?limit=2"})); len(h.Hosts) != 2 || h.Next != h.Hosts[1].Host {
		t.Errorf("the only node with hosts has more than a page: %+v", h)
	}
}

func wantInUse(b *bench) (n int64) {
	for _, node := range b.nodes {
		for _, u := range node.uses {
			n += u.InUse
		}
	}
	return n
}

func TestSilentPeerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a")
		var peers []Peer
		for i := range 2 * fanWidth {
			peers = append(peers, Peer{Name: fmt.Sprintf("n%02d", i), RT: roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})})
		}
		b.nodes["a"].uses = []NodeUse{use("x.org", 1)}
		b.nodes["a"].server.deps.Peers = peerList(peers)
		start := time.Now()
		got := get[api.Hosts](t, b.nodes["a"].do(try{method: "GET", path: api.PathHosts}))
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
		if len(got.Hosts) != 1 || len(got.Unreachable) != len(peers) || got.Unreachable[0] != (api.Unreachable{Node: "n00", Error: "no answer in time"}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestPeerThatTalksNonsense(t *testing.T) {
	b := newBench(t, Config{}, "a")
	for body, status := range map[string]int{"{": 200, "busy": 500} {
		rt := roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}}, nil
		})
		b.nodes["a"].server.deps.Peers = peerList{{Name: "b", RT: rt}}
		if got := get[api.Hosts](t, b.nodes["a"].do(try{method: "GET", path: api.PathHosts})); len(got.Unreachable) != 1 {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

type peerList []Peer

func (l peerList) Peers() []Peer { return l }
