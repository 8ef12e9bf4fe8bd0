package top

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weirproxy/weir/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var writeFrames = flag.Bool("write-frames", false, "write testdata/*.txt anew, where a frame differs")

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func five() *int64 { return capped(5) }

func capped(n int64) *int64 { return &n }

func use(inUse, granted, waiting int64, admitted, rejected uint64) api.Use {
	return api.Use{InUse: inUse, Granted: granted, Waiting: waiting, Admitted: admitted, Rejected: rejected}
}

// idle is use of which so many connections are kept for reuse.
func idle(n int64, u api.Use) api.Use {
	u.Idle = n
	return u
}

// host makes an entry whose sums are those of its nodes.
func host(name string, limit *int64, nodes map[string]api.Use) api.Host {
	h := api.Host{Host: name, Nodes: nodes, Pattern: "*"}
	h.Limit = limit
	for node, u := range nodes {
		u.Limit = limit
		nodes[node] = u
		h.InUse, h.Granted, h.Waiting = h.InUse+u.InUse, h.Granted+u.Granted, h.Waiting+u.Waiting
		h.Idle += u.Idle
		h.Admitted, h.Rejected = h.Admitted+u.Admitted, h.Rejected+u.Rejected
	}
	return h
}

func frame(second int, full bool, hosts ...api.Host) api.Notice {
	return api.Notice{Use: &api.UseFrame{Time: start.Add(time.Duration(second) * time.Second), Full: full, Hosts: hosts}}
}

func node(name, health, session string, leader bool, reclaim time.Duration) api.Node {
	n := api.Node{Name: name, Role: "server", Health: health, Session: session, Leader: leader, Version: "v1.2.3"}
	if reclaim > 0 {
		d := api.Duration(reclaim)
		n.ReclaimIn = &d
	}
	return n
}

// world is a model with three nodes and four hosts, as they are after two seconds.
func world(o Options) *Model {
	o.Addr, o.Interval = "http://127.0.0.1:8081", time.Second
	m := New(o)
	m.Take(start, api.Notice{Event: &api.Event{Time: start, Type: "leader", Text: "b leads"}})
	m.Take(start, api.Notice{Status: &api.Status{
		Node: "a", Version: "v1.2.3", Leader: "b", Ready: true, Raft: api.RaftStatus{Term: 4},
	}})
	m.Take(start, api.Notice{Nodes: &api.Nodes{View: "b", Nodes: []api.Node{
		node("a", "alive", "live", false, 0), node("b", "alive", "live", true, 0), node("c", "alive", "live", false, 0),
	}}})
	m.Take(start, frame(0, true,
		host("api.example.com", capped(20), map[string]api.Use{"a": use(6, 8, 0, 100, 0), "b": use(5, 5, 2, 50, 10), "c": use(1, 2, 0, 10, 0)}),
		host("blocked.example.com", capped(0), map[string]api.Use{"a": use(0, 0, 0, 0, 7)}),
		host("free.example.org", nil, map[string]api.Use{"a": use(3, 0, 0, 30, 0), "b": use(1, 0, 0, 9, 0)}),
		host("idle.example.net", five(), map[string]api.Use{"c": use(0, 1, 0, 2, 0)}),
	))
	m.Take(start, frame(2, false,
		host("api.example.com", capped(20), map[string]api.Use{"a": use(6, 8, 0, 130, 0), "b": use(5, 5, 2, 51, 34), "c": use(1, 2, 0, 10, 0)}),
		host("free.example.org", nil, map[string]api.Use{"a": idle(2, use(3, 0, 0, 2500, 0)), "b": use(1, 0, 0, 4, 0)}), // b has started again
	))
	m.Refresh()
	return m
}

// golden compares a frame with the one that is kept, after checking what holds for all.
func golden(t *testing.T, m *Model, name string, now time.Time) {
	t.Helper()
	text := m.Frame(now)
	lines := strings.Split(text, "\n")
	if len(lines) != m.height {
		t.Errorf("%s: %d lines on a terminal with %d", name, len(lines), m.height)
	}
	for i, line := range lines {
		if w := ansi.StringWidth(line); w > m.width {
			t.Errorf("%s: line %d is %d cells wide on a terminal with %d: %q", name, i, w, m.width, line)
		}
	}
	path := filepath.Join("testdata", name+".txt")
	got := strings.ReplaceAll(text, "\x1b", "␛") + "\n"
	have, err := os.ReadFile(path)
	if err == nil && got == string(have) {
		return
	}
	if !*writeFrames {
		t.Fatalf("%s differs; go test ./cmd/weir/top -write-frames writes it anew (-file +code): %v\n%s", path, err, cmp.Diff(string(have), got))
	}
	if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

func keys(m *Model, names ...string) {
	for _, k := range names {
		m.Key(k)
	}
}

func TestFrames(t *testing.T) {
	later := start.Add(1500 * time.Millisecond)
	for _, c := range []struct {
		name          string
		opt           Options
		width, height int
		do            func(*Model)
	}{
		{"narrow", Options{Unicode: true}, 80, 24, func(*Model) {}},
		{"wide", Options{Unicode: true}, 160, 30, func(*Model) {}},
		{"colour", Options{Unicode: true, Colour: true}, 100, 20, func(*Model) {}},
		{"ascii", Options{}, 100, 20, func(m *Model) { keys(m, "h", "down") }},
		{"ascii-colour", Options{Colour: true}, 90, 16, func(*Model) {}},
		{"tiny", Options{}, 30, 10, func(*Model) {}},
		{"too-small", Options{}, 19, 5, func(*Model) {}},
		{"host-list", Options{Unicode: true, HostList: true, Sort: "host", Limit: 3}, 80, 12, func(*Model) {}},
		{"sorted", Options{Unicode: true}, 100, 20, func(m *Model) { keys(m, "r") }},
		{"reversed", Options{Unicode: true}, 100, 20, func(m *Model) { keys(m, "r", "r") }},
		{"filtering", Options{Unicode: true}, 100, 20, func(m *Model) { keys(m, "/", "O", "r", "g") }},
		{"filtered", Options{Unicode: true}, 100, 20, func(m *Model) { keys(m, "/", "x", "space", "enter") }},
		{"paused", Options{Unicode: true}, 100, 20, func(m *Model) { keys(m, "space") }},
		{"help", Options{Unicode: true}, 80, 30, func(m *Model) { keys(m, "?") }},
		{"nodes", Options{Unicode: true}, 80, 24, func(m *Model) { keys(m, "tab", "down") }},
		{"asking", Options{Unicode: true}, 80, 24, func(m *Model) { keys(m, "enter") }},
		{"details", Options{Unicode: true}, 100, 24, func(m *Model) {
			keys(m, "enter")
			m.TakeConnections("api.example.com", api.ConnectionList{Connections: []api.Connection{
				{ID: "17", Node: "a", Client: "10.1.2.3:4567", Host: "api.example.com", Port: 443, Protocol: "connect", Age: api.Duration(200 * time.Second), BytesOut: 1234, BytesIn: 98765432},
				{ID: "4", Node: "b", Host: "api.example.com", Port: 80, Protocol: "idle", Age: api.Duration(1500 * time.Millisecond)},
			}, Unreachable: []api.Unreachable{{Node: "c", Error: "no answer in time"}}}, "")
		}},
		{"many-connections", Options{Unicode: true}, 80, 14, func(m *Model) {
			keys(m, "enter")
			l := api.ConnectionList{Next: "x"}
			for i := range 40 {
				l.Connections = append(l.Connections, api.Connection{ID: fmt.Sprint(i), Node: "a", Client: fmt.Sprintf("10.0.0.%d:1", i), Protocol: "connect"})
			}
			m.TakeConnections("api.example.com", l, "")
			keys(m, "end", "up")
		}},
		{"dead-node", Options{Unicode: true}, 100, 20, func(m *Model) {
			m.Take(start, api.Notice{Event: &api.Event{Time: start.Add(time.Second), Text: "a is dead"}})
			m.Take(start, api.Notice{Nodes: &api.Nodes{Nodes: []api.Node{node("a", "dead", "live", false, 9*time.Second), node("b", "alive", "live", true, 0), node("c", "suspect", "fenced", false, 0)}}})
			m.Take(start, frame(3, false, host("api.example.com", capped(20), map[string]api.Use{"b": use(5, 5, 2, 51, 34), "c": use(1, 2, 0, 10, 0)})))
			m.Refresh()
		}},
		{"lost", Options{Unicode: true}, 100, 20, func(m *Model) { m.Lost("connection refused\x1b[2J", later.Add(3*time.Second)) }},
		{"troubles", Options{Unicode: true}, 160, 20, func(m *Model) {
			m.Take(start, api.Notice{Status: &api.Status{Node: "a", Version: "v1", Leader: "", DiskFull: true, ConfigDisagreements: []string{"b", "c"}}})
			n := frame(3, false)
			n.Use.More, n.Use.Unreachable = 1200, []api.Unreachable{{Node: "c", Error: "no answer in time"}}
			m.Take(start, n)
			m.Refresh()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := world(c.opt)
			m.Resize(c.width, c.height)
			c.do(m)
			golden(t, m, c.name, later)
		})
	}
	m := New(Options{Addr: "http://127.0.0.1:8081", Interval: 2 * time.Second})
	golden(t, m, "nothing-yet", start)
	m.Lost("connection refused", start.Add(time.Second))
	golden(t, m, "nothing-but-lost", start)
}

// TestEverySizeFits: whatever the terminal's size, and whatever is shown, the frame has its size.
func TestEverySizeFits(t *testing.T) {
	for _, o := range []Options{{}, {Unicode: true, Colour: true}, {HostList: true}} {
		for _, do := range [][]string{nil, {"?"}, {"enter"}, {"tab", "end"}, {"/", "e"}} {
			m := world(o)
			keys(m, do...)
			for width := 0; width < 200; width += 13 {
				for height := 0; height < 60; height += 7 {
					m.Resize(width, height)
					lines := strings.Split(m.Frame(start), "\n")
					if len(lines) != max(1, height) {
						t.Fatalf("%d lines at %d×%d", len(lines), width, height)
					}
					for _, line := range lines {
						if ansi.StringWidth(line) > width {
							t.Fatalf("%d cells at %d×%d: %q", ansi.StringWidth(line), width, height, line)
						}
					}
				}
			}
		}
	}
}

// TestNamesDoNotSteer: what others have named reaches the terminal without a single control
// character.
func TestNamesDoNotSteer(t *testing.T) {
	evil := "x\x1b[2J\x1b]0;t\x07\u202e\u200b\n\x9b1m世界" + string([]byte{0xff})
	for _, o := range []Options{{}, {Unicode: true}, {HostList: true}} {
		o.Addr = evil
		m := New(o)
		m.Take(start, api.Notice{Status: &api.Status{Node: evil, Version: evil, Leader: evil, ConfigDisagreements: []string{evil}}})
		m.Take(start, api.Notice{Nodes: &api.Nodes{Nodes: []api.Node{{Name: evil, Role: "server", Health: "alive", Version: evil}}}})
		m.Take(start, api.Notice{Event: &api.Event{Time: start, Text: evil}})
		h := host(evil, five(), map[string]api.Use{evil: use(1, 1, 1, 1, 1)})
		h.Pattern = evil
		n := frame(0, true, h)
		n.Use.Unreachable = []api.Unreachable{{Node: evil, Error: evil}}
		m.Take(start, n)
		m.Resize(120, 30)
		for _, key := range []string{"h", "enter"} {
			m.Key(key)
			m.TakeConnections(evil, api.ConnectionList{Connections: []api.Connection{{ID: evil, Node: evil, Client: evil, Host: evil, Protocol: evil}}}, "")
			text := ansi.Strip(m.Frame(start))
			for _, line := range strings.Split(text, "\n") {
				if Clean(line) != line {
					t.Errorf("%q: %q", key, line)
				}
			}
			if !strings.Contains(text, "世界") || strings.Contains(text, "\u202e") {
				t.Errorf("%s", text)
			}
		}
		m.Lost(evil, start)
		if text := ansi.Strip(m.Frame(start)); strings.ContainsAny(text, "\x1b\x07\u202e") {
			t.Errorf("%q", text)
		}
	}
}

// TestCursorStaysWithItsHost: as the order changes, and as hosts come and go.
func TestCursorStaysWithItsHost(t *testing.T) {
	m := world(Options{Sort: "in_use"})
	keys(m, "down")
	selected := func() string { return m.shown[m.hosts.cursor].Host.Host }
	if selected() != "free.example.org" {
		t.Fatal(selected())
	}
	m.Take(start, frame(3, false, host("free.example.org", nil, map[string]api.Use{"a": use(30, 0, 0, 0, 0)}), host("zzz", nil, map[string]api.Use{"a": use(99, 0, 0, 0, 0)})))
	m.Refresh()
	if selected() != "free.example.org" || m.shown[0].Host.Host != "zzz" {
		t.Errorf("%s is selected; %s is first", selected(), m.shown[0].Host.Host)
	}
	gone := frame(4, false)
	gone.Use.Gone = []string{"free.example.org", "zzz", "idle.example.net", "blocked.example.com"}
	m.Take(start, gone)
	m.Refresh()
	if selected() != "api.example.com" || len(m.shown) != 1 {
		t.Errorf("%s of %d", selected(), len(m.shown))
	}
	keys(m, "up", "pgup", "end", "pgdown", "down")
	if selected() != "api.example.com" {
		t.Error(selected())
	}
}

// TestPause: nothing that is shown moves, and what came meanwhile is shown afterwards.
func TestPause(t *testing.T) {
	m := world(Options{})
	keys(m, "space")
	before := m.Frame(start)
	m.Take(start, frame(3, false, host("new.example.com", nil, map[string]api.Use{"a": use(1, 0, 0, 1, 0)})))
	m.Refresh()
	if got := m.Frame(start); got != before {
		t.Error(cmp.Diff(before, got))
	}
	keys(m, "space")
	if got := m.Frame(start); !strings.Contains(got, "new.example.com") {
		t.Error(got)
	}
	keys(m, "/", "q", "?", "backspace", "backspace", "backspace")
	if m.typing || m.filter != "" || m.help {
		t.Errorf("typing %v, filter %q", m.typing, m.filter)
	}
	for key, quits := range map[string]bool{"q": true, "ctrl+c": true, "x": false, "esc": false} {
		if m.Key(key) != quits {
			t.Errorf("%s: %v", key, !quits)
		}
	}
}

// TestSlotsOfADeadNode are shown until they are reclaimed, and not after.
func TestSlotsOfADeadNode(t *testing.T) {
	m := world(Options{})
	h := func(nodes map[string]api.Use) api.Host { return host("api.example.com", capped(20), nodes) }
	m.Take(start, api.Notice{Nodes: &api.Nodes{Nodes: []api.Node{node("a", "dead", "live", false, time.Second)}}})
	m.Take(start, frame(3, false, h(map[string]api.Use{"b": use(5, 5, 0, 60, 0)})))
	if got := m.cluster.heldBy("api.example.com"); got["a"] != 8 || len(got) != 1 {
		t.Errorf("%v", got)
	}
	m.Take(start, api.Notice{Nodes: &api.Nodes{Nodes: []api.Node{node("a", "dead", "none", false, 0)}}})
	if got := m.cluster.heldBy("api.example.com"); len(got) != 0 {
		t.Errorf("reclaimed: %v", got)
	}
	m.Take(start, api.Notice{Nodes: &api.Nodes{Nodes: []api.Node{node("a", "alive", "live", false, time.Second)}}})
	m.Take(start, frame(4, false, h(map[string]api.Use{"a": use(1, 1, 0, 1, 0)})))
	if got := m.cluster.heldBy("api.example.com"); len(got) != 0 {
		t.Errorf("back: %v", got)
	}
}

func TestRates(t *testing.T) {
	m := world(Options{Sort: "host"})
	want := map[string]rate{"api.example.com": {15.5, 12}, "free.example.org": {1235, 0}, "blocked.example.com": {}, "idle.example.net": {}}
	for _, h := range m.shown {
		if h.rate != want[h.Host.Host] {
			t.Errorf("%s: %+v", h.Host.Host, h.rate)
		}
	}
	// Time that goes backwards, as where another node answers at this address now, makes no rates.
	m.Take(start, frame(-5, true, host("api.example.com", capped(20), map[string]api.Use{"a": use(6, 8, 0, 99999, 99999)})))
	m.Refresh()
	if len(m.shown) != 1 || m.shown[0].rate != (rate{}) || m.Rated() {
		t.Errorf("%+v", m.shown)
	}
}

func TestBars(t *testing.T) {
	shares := []share{{node: 0, used: 6, idle: 2}, {node: 1, used: 3}, {node: 2, held: 4}}
	for _, c := range []struct {
		limit         *int64
		shares        []share
		waiting, full int64
		want          string
	}{
		{capped(20), shares, 0, 0, "AAAAAABBBaaxxxx....."},
		{capped(20), shares, 10, 0, "AAAABBaaxxx...>>>>>>"},
		{capped(9), shares[:2], 0, 0, "AAAAAAAAAAABBBBBaaaa"}, // more is granted than the limit, which was lowered
		{nil, []share{{node: 3, used: 5}}, 0, 10, "DDDDDDDDDD.........."},
		{nil, nil, 0, 0, "...................."},
		{capped(0), nil, 0, 0, "...................."},
		{capped(0), nil, 3, 0, "..............>>>>>>"},
		{capped(1000), []share{{node: 0, used: 1}}, 1, 0, "A..................>"},
		{capped(1000), []share{{node: 0, used: 999}}, 0, 0, "AAAAAAAAAAAAAAAAAAA."},
		{capped(1000), []share{{node: 0, used: 1000}}, 0, 0, "AAAAAAAAAAAAAAAAAAAA"},
	} {
		if got := ansi.Strip(Options{}.drawn(bar(20, c.limit, c.shares, c.waiting, c.full))); got != c.want {
			t.Errorf("%+v:\n got %s\nwant %s", c, got, c.want)
		}
	}
	for width := range 40 {
		for n := range int64(30) {
			if got := bar(width, capped(n), shares, n*3, 7); len(got) != width {
				t.Errorf("%d cells, want %d", len(got), width)
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(12_345): "12,345", number(123_456): "123k", number(1_250_000): "1.2M", number(34_000_000): "34M",
		perSecond(0): "0", perSecond(0.04): "<0.1", perSecond(0.05): "0.1", perSecond(9.94): "9.9", perSecond(9.96): "10", perSecond(1234.4): "1,234",
		size(0): "0B", size(1024): "1.0K", size(1<<20 - 1): "1024K", size(5 << 30): "5.0G",
		age(-time.Second): "0.0s", age(4200 * time.Millisecond): "4.2s", age(3*time.Minute + 5*time.Second): "3m05s", age(50 * time.Hour): "2d02h", age(2*time.Hour + 10*time.Minute): "2h10m",
		fit("世界世界", 5, false, "~"): "世界~", fit("世", 4, true, "~"): "  世",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, n := range []uint64{0, 99_999, 999_999, 9_999_999, 99_999_999_999, 1 << 63} {
		if len(number(n)) > 6 {
			t.Errorf("%d is %q", n, number(n))
		}
	}
}

// TestTables: the picture as it is printed where there is no terminal.
func TestTables(t *testing.T) {
	if n, h := New(Options{}).Tables(start); n != nil || h != nil {
		t.Error("there is nothing yet")
	}
	nodes, hosts := world(Options{Sort: "host"}).Tables(start)
	if len(nodes) != 4 || len(hosts) != 5 {
		t.Fatalf("%d nodes, %d hosts", len(nodes), len(hosts))
	}
	if want := "b server leader alive - live - 6 0 5 2 0.5 12"; strings.Join(nodes[2], " ") != want {
		t.Errorf("%q, want %q", nodes[2], want)
	}
	if want := "api.example.com 20 12 0 15 2 16 12"; strings.Join(hosts[1], " ") != want {
		t.Errorf("%q, want %q", hosts[1], want)
	}
}

// BenchmarkThousands is one second of a terminal that shows ten thousand hosts: a whole frame is
// taken, pictured and drawn.
func BenchmarkThousands(b *testing.B) {
	hosts := make([]api.Host, 10_000)
	for i := range hosts {
		hosts[i] = host(fmt.Sprintf("host-%d.example.com", i), five(), map[string]api.Use{"a": use(int64(i%7), 5, 0, uint64(i), 0), "b": use(1, 1, 0, 5, 0)})
	}
	m := New(Options{Unicode: true, Colour: true})
	m.Resize(200, 60)
	for i := range b.N {
		m.Take(start, frame(i, true, hosts...))
		m.Refresh()
		_ = m.Frame(start)
	}
}

// A draining node says so in place of its health, unless that is worse, and in a column of its own
// without a terminal.
func TestDrainingNodes(t *testing.T) {
	m := New(Options{Interval: time.Second})
	m.Resize(100, 20)
	draining, dead := node("a", "alive", "live", true, 0), node("b", "dead", "expired", false, 0)
	draining.Draining, dead.Draining = true, true
	m.Take(start, api.Notice{Nodes: &api.Nodes{View: "a", Nodes: []api.Node{draining, dead}}})
	m.Take(start, frame(0, true))
	m.Refresh()
	text := m.Frame(start)
	if strings.Count(text, "draining") != 1 || !strings.Contains(text, "dead") {
		t.Errorf("want a draining and b dead:\n%s", text)
	}
	nodes, _ := m.Tables(start)
	if nodes[1][4] != "draining" || nodes[2][4] != "draining" {
		t.Errorf("%q", nodes)
	}
}
