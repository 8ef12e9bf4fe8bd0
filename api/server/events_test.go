package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

func texts(l *EventLog) []string {
	entries, _ := l.since("")
	var all []string
	for _, e := range entries {
		all = append(all, e.event.Text)
	}
	return all
}

func TestEventLogIsBoundedAndInOrder(t *testing.T) {
	l := NewEventLog("a")
	for i := range 3 * eventsKept {
		l.Leader(fmt.Sprint("n", i), uint64(i))
	}
	entries, _ := l.since("")
	if len(entries) != eventsKept || cap(l.entries) > 2*eventsKept {
		t.Fatalf("%d events are kept, in %d", len(entries), cap(l.entries))
	}
	for i, e := range entries {
		if want := uint64(2*eventsKept + i + 1); e.number != want {
			t.Fatalf("entry %d has number %d, want %d", i, e.number, want)
		}
	}
	behind, _ := l.since(l.cursor(3*eventsKept - 2))
	if len(behind) != 2 || behind[1].event.Node != fmt.Sprint("n", 3*eventsKept-1) {
		t.Errorf("behind the last but two: %+v", behind)
	}
	for _, cursor := range []string{"", "x", "other-5", l.cursor(3*eventsKept + 1), l.cursor(1)} {
		if all, _ := l.since(cursor); len(all) != eventsKept {
			t.Errorf("behind %q: %d", cursor, len(all))
		}
	}
}

func TestEventsSayOnceWhatHappened(t *testing.T) {
	l := NewEventLog("a")
	l.Member("b", "server", "alive")
	l.Member("b", "server", "alive")
	l.Leader("b", 2)
	l.Leader("b", 2)
	l.Member("b", "server", "dead")
	l.Leader("", 2)
	l.Reclaimed("b", 7, "expired", 3, 3540*time.Millisecond)
	l.Reclaimed("b", 9, "taken over", 1, time.Second)
	l.Reclaimed("c", 8, "left", 0, 0)
	l.Member("b", "server", "alive")
	l.Member("b", "server", "left")
	l.Fenced(2)
	want := []string{
		"b joined", "b leads", "b is dead", "nobody leads", "3 slots reclaimed from b, silent for 3.5s", "1 slot of b's former process came back",
		"c gave back 0 slots", "b is back", "b left", "a fenced: no proof of its session, 2 connections severed",
	}
	if got := texts(l); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	shared, cursor := l.own("")
	if len(shared) != 4 || shared[3].Type != "fence" || shared[3].SeenBy != "a" {
		t.Errorf("told to others: %+v", shared)
	}
	if again, same := l.own(cursor); len(again) != 0 || same != cursor {
		t.Errorf("told again: %+v", again)
	}
}

// TestLimitEventsNameTheirAuthor: also where the write was sent on to the leader, and whatever the
// caller claims.
func TestLimitEventsNameTheirAuthor(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	leader, other := b.nodes["a"].server, b.nodes["b"]
	lie := put("api.org", `{"connections":5}`)
	lie.header = map[string]string{headerClient: "6.6.6.6:6", headerForwarded: "z"}
	get[api.LimitWritten](t, other.do(lie))
	get[api.LimitWritten](t, other.do(lie)) // changes nothing
	get[api.LimitWritten](t, b.nodes["a"].do(put("api.org", `{"connections":7,"queue":{"timeout":"2s","size":9}}`)))
	get[api.LimitDeleted](t, other.do(try{method: "DELETE", path: pathLimit + "api.org"}))
	if _, err := other.server.ReplaceConfigLimits(t.Context(), []limit.Limit{{Pattern: mustPattern(t, "*"), Connections: 1}}); err != nil {
		t.Fatal(err)
	}
	entries, _ := leader.events.since("")
	var got []string
	for _, e := range entries {
		by := e.event.By
		got = append(got, fmt.Sprintf("%s | %s %s %s", e.event.Text, by.Source, by.Node, by.Client))
	}
	want := []string{
		"limit on api.org set: 5 connections | api b 192.0.2.1:1234",
		"limit on api.org changed: 7 connections, queue of 9 for 2s, was 5 connections | api a 192.0.2.1:1234",
		"limit on api.org deleted (was: 7 connections, queue of 9 for 2s) | api b 192.0.2.1:1234",
		"limit on * set: 1 connection | config b ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func mustPattern(t *testing.T, s string) limit.Pattern {
	t.Helper()
	p, err := limit.ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestManyChangesAtOnce: a write that replaces thousands of limits doesn't push all else out of the
// log.
func TestManyChangesAtOnce(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf(`{"pattern":"h%d.org","connections":1}`, i))
	}
	get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[` + strings.Join(many, ",") + `]}`}))
	got := texts(a.server.events)
	if len(got) != changesNoted+1 || got[changesNoted] != "400 limits more changed by the same write" {
		t.Errorf("%d events, the last %q", len(got), got[len(got)-1])
	}
}

// follow reads a stream's events until it ends.
func follow(t *testing.T, body io.Reader, got func(id, name, data string) bool) {
	t.Helper()
	lines := bufio.NewReader(body)
	var id, name, data string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			if data != "" && !got(id, name, data) {
				return
			}
			id, name, data = "", "", ""
		}
	}
}

// stream asks a node that serves on a pipe for its events. Within a bubble its time is fake.
func (n *benchNode) stream(t *testing.T, query, last string) (*http.Response, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", "http://127.0.0.1/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	res, err := n.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return res, func() {
		cancel()
		_ = res.Body.Close()
	}
}

// serveOnPipes makes the node's server serve connections in memory until the function returned is
// called.
func (n *benchNode) serveOnPipes(t *testing.T) (stop func()) {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.transport = &http.Transport{DialContext: l.dial}
	ended := make(chan error, 1)
	go func() { ended <- n.server.Serve(l) }()
	return func() {
		n.transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	close(l.done)
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestStream: history first, then the state, all of it once and after that what has changed, and
// events as they happen, also those of another node; a client that comes back gets what it missed.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a", "b")
		a := b.nodes["a"]
		stop := a.serveOnPipes(t)
		defer stop()
		a.uses = []NodeUse{use("one.org", 3), use("two.org", 1)}
		b.nodes["b"].uses = []NodeUse{use("one.org", 2)}
		a.members = []api.Node{{Name: "a", Health: "alive"}, {Name: "b", Health: "alive"}}
		a.server.events.Member("a", "server", "alive")

		var names []string
		var frames []api.UseFrame
		var last string
		res, cancel := a.stream(t, "", "")
		follow(t, res.Body, func(id, name, data string) bool {
			names = append(names, name)
			if id != "" {
				last = id
			}
			if name == "use" {
				var f api.UseFrame
				if err := json.Unmarshal([]byte(data), &f); err != nil {
					t.Fatal(err)
				}
				frames = append(frames, f)
				a.set(func() { a.uses = []NodeUse{use("one.org", 4)} })
				b.nodes["b"].server.events.Fenced(1)
			}
			return len(frames) < 2
		})
		cancel()
		if want := []string{"member", "status", "nodes", "use"}; !slices.Equal(names[:4], want) {
			t.Errorf("it begins with %q", names[:4])
		}
		if !slices.Contains(names, "fence") {
			t.Errorf("what b noted is not among %q", names)
		}
		first, second := frames[0], frames[1]
		if !first.Full || len(first.Hosts) != 2 || first.Hosts[0].InUse != 5 || first.Hosts[0].Nodes["b"].InUse != 2 {
			t.Errorf("first %+v", first)
		}
		if second.Full || len(second.Hosts) != 1 || second.Hosts[0].InUse != 6 || !slices.Equal(second.Gone, []string{"two.org"}) {
			t.Errorf("then %+v", second)
		}
		if passed := second.Time.Sub(first.Time); passed < watchSoon || passed > 2*watchEvery {
			t.Errorf("%v between two frames", passed)
		}

		a.server.events.Leader("b", 4)
		res, cancel = a.stream(t, "?types=leader,member,fence", last)
		var missed []string
		follow(t, res.Body, func(_, name, data string) bool {
			missed = append(missed, name)
			return !strings.Contains(data, "b leads")
		})
		cancel()
		if slices.Contains(missed, "member") || slices.Contains(missed, "use") || !slices.Contains(missed, "leader") {
			t.Errorf("after coming back: %q", missed)
		}
	})
}

// TestSlowReaderIsDropped: a client that takes nothing loses its stream; the others, and the
// server, go on.
func TestSlowReaderIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, Config{}, "a").nodes["a"]
		stop := a.serveOnPipes(t)
		defer stop()
		slow, cancelSlow := a.stream(t, "", "") // a pipe holds nothing: the first frame is stuck
		defer cancelSlow()
		quick, cancelQuick := a.stream(t, "?types=use", "")
		defer cancelQuick()
		frames := 0
		follow(t, quick.Body, func(string, string, string) bool {
			frames++
			return frames < 60
		})
		if frames < 60 {
			t.Errorf("the reader that keeps up got %d frames", frames)
		}
		a.server.watcher.mu.Lock()
		watching := len(a.server.watcher.watching)
		a.server.watcher.mu.Unlock()
		if watching > 1 {
			t.Errorf("%d are watching; the slow one must have been let go", watching)
		}
		if _, err := io.Copy(io.Discard, slow.Body); err == nil {
			t.Log("the slow reader's stream ended in good order")
		}
	})
}

// TestStreamsAreBoundedAndEndWithTheServer: nobody can take all places for ever, and a shutdown
// waits for nobody's stream.
func TestStreamsAreBoundedAndEndWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, Config{}, "a").nodes["a"]
		stop := a.serveOnPipes(t)
		var all []*watch
		for range mostWatcher {
			w, err := a.server.watcher.begin()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, w)
		}
		refused(t, a.do(try{method: "GET", path: "/v1/events"}), 503, "follow")
		for _, w := range all[1:] {
			a.server.watcher.end(w)
		}
		res, cancel := a.stream(t, "", "")
		defer cancel()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			time.Sleep(3 * time.Second) // fake
			stop()
		}()
		began := time.Now()
		_, _ = io.Copy(io.Discard, res.Body)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the stream ended %v after the shutdown", took-3*time.Second)
		}
		for range all[0].frames { // closed, or this would never end
		}
		<-stopped
	})
}

func TestEventTypes(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	refused(t, a.do(try{method: "GET", path: "/v1/events?types=leader,nonsense"}), 400, "nonsense")
	refused(t, a.do(try{method: "GET", path: "/v1/events?type=leader"}), 400, "types")
	if w := a.do(try{method: "HEAD", path: "/v1/events"}); w.Code != 200 || w.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
}

// TestConnectionsOfOtherNodes: any node lists and closes those of all.
func TestConnectionsOfOtherNodes(t *testing.T) {
	b := newBench(t, Config{}, "a", "b", "c")
	b.put("*.org", 9)
	get[api.LimitsReplaced](t, b.nodes["a"].do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"pattern":"*.org","connections":9,"shared":true}]}`}))
	b.see()
	now := time.Now()
	b.nodes["a"].list = []api.Connection{{ID: "1", Host: "x.org", Port: 443, Since: now}, {ID: "2", Host: "z.com", Port: 443, Since: now}}
	b.nodes["b"].list = []api.Connection{{ID: "1/ü", Host: "y.org", Port: 80, Since: now.Add(-time.Second)}}
	b.nodes["c"].set(func() { b.nodes["c"].down = true })
	at := func(query string) api.ConnectionList {
		return get[api.ConnectionList](t, b.nodes["a"].do(try{method: "GET", path: api.PathConnections + query}))
	}
	ids := func(l api.ConnectionList) string {
		var s []string
		for _, c := range l.Connections {
			s = append(s, c.Node+" "+c.ID)
		}
		return strings.Join(s, ", ")
	}
	if got := ids(at("")); got != "a 1, a 2" {
		t.Errorf("this node's: %s", got)
	}
	if got := ids(at("?node=b")); got != "b 1/ü" {
		t.Errorf("b's: %s", got)
	}
	all := at("?node=*&key=*.org")
	if got := ids(all); got != "b 1/ü, a 1" || len(all.Unreachable) != 1 || all.Unreachable[0].Node != "c" {
		t.Errorf("all that count under *.org: %s, without %+v", got, all.Unreachable)
	}
	get[api.ConnectionClosed](t, b.nodes["a"].do(try{method: "DELETE", path: api.PathConnections + "/1%2F%C3%BC?node=b"}))
	if got := b.nodes["b"].closed; !slices.Equal(got, []string{"1/ü"}) {
		t.Errorf("closed on b: %q", got)
	}
	refused(t, b.nodes["a"].do(try{method: "DELETE", path: api.PathConnections + "/9?node=b"}), 404, "node b")
	refused(t, b.nodes["a"].do(try{method: "GET", path: api.PathConnections + "?node=x"}), 404, `"x"`)
	refused(t, b.nodes["a"].do(try{method: "GET", path: api.PathConnections + "?node=c"}), 503, "c does not answer")
	w := httptest.NewRecorder()
	b.nodes["a"].server.PeerHandler().ServeHTTP(w, httptest.NewRequest("GET", api.PathConnections+"?node=b", nil))
	if got := ids(get[api.ConnectionList](t, w)); got != "a 1, a 2" {
		t.Errorf("what a peer asks was asked on: %s", got)
	}
}

// TestStreamWhileANodeHangs: while one node accepts and never answers, a follower's stream has the
// leader's view of the nodes, and comes each second. A node that gossip calls dead is not waited for
// as long.
func TestStreamWhileANodeHangs(t *testing.T) {
	for _, health := range []string{"alive", "dead"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Config{}, "a", "b", "c")
			n := b.nodes["b"]
			n.members = []api.Node{{Name: "a", Health: "alive"}, {Name: "b", Health: "alive"}, {Name: "c", Health: health}}
			b.nodes["c"].hang, b.nodes["c"].dead = true, health == "dead"
			stop := n.serveOnPipes(t)
			defer stop()
			res, cancel := n.stream(t, "?types=nodes,use", "")
			defer cancel()
			var first time.Time
			var nodes, uses int
			follow(t, res.Body, func(_, name, data string) bool {
				switch name {
				case "nodes":
					var f api.Nodes
					if err := json.Unmarshal([]byte(data), &f); err != nil || f.View != "a" {
						t.Errorf("%s: frame %d is %q's view of the nodes, %v", health, nodes, f.View, err)
					}
					nodes++
				case "use":
					var f api.UseFrame
					if err := json.Unmarshal([]byte(data), &f); err != nil || len(f.Unreachable) != 1 {
						t.Errorf("%s: %s, %v", health, data, err)
					}
					if uses == 0 {
						first = time.Now()
					}
					uses++
				}
				return uses < 5
			})
			if took := time.Since(first); took > 4*watchEvery {
				t.Errorf("%s: 5 frames took %v", health, took)
			}
			began := time.Now()
			get[api.Hosts](t, n.do(try{method: "GET", path: api.PathHosts}))
			if took := time.Since(began); took > deadWait == (health == "dead") {
				t.Errorf("%s: all nodes were asked for %v", health, took)
			}
			if nodes != uses {
				t.Errorf("%s: %d frames of nodes beside %d of use", health, nodes, uses)
			}
		})
	}
}
