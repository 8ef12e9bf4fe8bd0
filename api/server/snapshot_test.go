package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// snapshot is the bench's state, as a file.
func (b *bench) snapshot() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var file strings.Builder
	if err := b.state.WriteSnapshot(&file); err != nil {
		b.t.Fatal(err)
	}
	return file.String()
}

// restore sends a snapshot to the node.
func (n *benchNode) restore(file string) *httptest.ResponseRecorder {
	return n.do(try{method: "PUT", path: api.PathSnapshot, body: file, header: map[string]string{"Content-Type": api.MediaSnapshot}})
}

// TestSnapshotRestore: whichever node takes it, both layers become what they were, and sessions and
// grants stay.
func TestSnapshotRestore(t *testing.T) {
	for _, through := range []string{"a", "b", "p"} {
		t.Run(through, func(t *testing.T) {
			b := newBench(t, Config{}, "a", "b", "p")
			b.nodes["p"].proxy = true
			b.put("x.org", 5)
			star, _ := limit.ParsePattern("*")
			b.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{{Pattern: star, Connections: 25}}})
			b.apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "i"})
			w := b.nodes[through].do(try{method: "GET", path: api.PathSnapshot})
			file := w.Body.String()
			if w.Code != 200 || w.Header().Get("Content-Type") != api.MediaSnapshot || w.Header().Get(api.HeaderIndex) != "4" || file != b.snapshot() {
				t.Fatalf("saved: %d %v, %d bytes", w.Code, w.Header(), len(file))
			}
			b.put("x.org", 7)
			b.put("new.org", 1)
			b.put("*", 3)
			b.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig})
			b.apply(&fsm.OpenSession{Term: 1, Node: "b", Identity: "i"})
			got := get[api.SnapshotRestored](t, b.nodes[through].restore(file))
			if want := (api.SnapshotRestored{Index: 10, Limits: 2, Changed: 2, Removed: 1}); got != want {
				t.Errorf("restored: %+v, want %+v", got, want)
			}
			list := get[api.Limits](t, b.nodes[through].do(try{method: "GET", path: api.PathLimits})) // at once: it is visible here
			if text := inWords(list); text != "[* 25 config, x.org 5 api]" {
				t.Errorf("the limits are %s", text)
			}
			if n := len(b.state.Sessions()); n != 2 {
				t.Errorf("%d sessions are left", n)
			}
		})
	}
}

func inWords(l api.Limits) string {
	var words []string
	for _, limit := range l.Limits {
		words = append(words, fmt.Sprintf("%s %d %s", limit.Pattern, *limit.Connections, limit.Source))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// TestSnapshotIsRelayedWhereTheLeaderIsGone: a server answers from its own state, a proxy asks a
// server that lives.
func TestSnapshotIsRelayedWhereTheLeaderIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a", "b", "c", "p")
		b.put("x.org", 5)
		p := b.nodes["p"]
		p.proxy = true
		p.members = []api.Node{{Name: "a", Health: "dead"}, {Name: "b"}, {Name: "c"}, {Name: "p", Role: "proxy"}}
		for _, name := range []string{"a", "b"} {
			b.nodes[name].down = true
		}
		for _, leader := range []string{"a", ""} {
			b.elect(leader)
			for _, n := range []*benchNode{p, b.nodes["c"]} {
				if w := n.do(try{method: "GET", path: api.PathSnapshot}); w.Code != 200 || w.Body.String() != b.snapshot() {
					t.Errorf("leader %q, through %s: %d %s", leader, n.name, w.Code, w.Body)
				}
			}
		}
		b.nodes["c"].down = true
		refused(t, p.do(try{method: "GET", path: api.PathSnapshot}), 503, "call a server")
		b.nodes["c"].down = false
		refused(t, p.restore(b.snapshot()), 503, "no leader")
	})
}

func TestSnapshotThatIsRefused(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	n := b.nodes["b"]
	b.put("x.org", 5)
	good := b.snapshot()
	before := b.index
	refused(t, n.restore(good[:len(good)-1]), 400, "damaged")
	refused(t, n.restore(good+"x"), 400, "damaged")
	refused(t, n.restore(""), 400, "damaged")
	refused(t, n.restore(`{"limits":[]}`), 400, "damaged")
	refused(t, n.restore(good[:30]+"x"+good[31:]), 400, "damaged")
	refused(t, n.do(try{method: "PUT", path: api.PathSnapshot, body: good}), 415, "octet-stream")
	refused(t, n.do(try{method: "PUT", path: api.PathSnapshot + "?x=1", body: good, header: map[string]string{"Content-Type": api.MediaSnapshot}}), 400, "query")
	refused(t, n.do(try{method: "POST", path: api.PathSnapshot, body: good, header: map[string]string{"Content-Type": api.MediaSnapshot}}), 405, "POST")
	refused(t, n.do(try{method: "PUT", path: "/v1/limits", body: good, header: map[string]string{"Content-Type": api.MediaSnapshot}}), 415, "json")
	b.nodes["a"].propose = ErrMixedVersions
	refused(t, n.restore(good), 409, "understand")
	b.nodes["a"].propose = ErrTooLarge
	refused(t, n.restore(good), 413, "one log entry")
	if b.index != before {
		t.Errorf("something was written: index %d, was %d", b.index, before)
	}
	r := try{method: "PUT", path: api.PathSnapshot, body: good, header: map[string]string{"Content-Type": api.MediaSnapshot}}.request()
	r.ContentLength = api.MaxSnapshot + 1
	w := httptest.NewRecorder()
	n.server.Handler().ServeHTTP(w, r)
	refused(t, w, 413, "longer than")
}

// TestSnapshotWithTooManyLimits: more than one log entry takes is refused before anything is
// written.
func TestSnapshotWithTooManyLimits(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 60)+".", 3) + "example.com"
	limits := make([]limit.Limit, 70_000)
	for i := range limits {
		p, err := limit.ParsePattern(fmt.Sprintf("host-%06d.%s", i, long))
		if err != nil {
			t.Fatal(err)
		}
		limits[i] = limit.Limit{Pattern: p, Connections: 3, Queue: limit.Queue{Timeout: time.Hour, Size: 1000}, Source: limit.SourceAPI}
	}
	big := newBench(t, Config{}, "a")
	big.apply(&fsm.RestoreLimits{Limits: limits})
	b := newBench(t, Config{}, "a")
	refused(t, b.nodes["a"].restore(big.snapshot()), 413, "70000 limits")
	if len(b.state.Table().Limits()) != 0 {
		t.Error("something was written")
	}
}

// TestSnapshotRestoreIsRepeatedOnce: the answer to the first attempt is lost, and the second finds
// that all is done.
func TestSnapshotRestoreIsRepeatedOnce(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	b.put("x.org", 5)
	file := b.snapshot()
	b.put("x.org", 6)
	b.nodes["a"].lose = 1
	got := get[api.SnapshotRestored](t, b.nodes["b"].restore(file))
	if got.Limits != 1 || b.state.Table().Limits()[0].Connections != 5 {
		t.Errorf("%+v, and the limits are %+v", got, b.state.Table().Limits())
	}
}

// TestClientSnapshot goes over a real connection.
func TestClientSnapshot(t *testing.T) {
	b := newBench(t, Config{Token: "t"}, "a")
	b.put("x.org", 5)
	s := httptest.NewServer(b.nodes["a"].server.Handler())
	defer s.Close()
	c, err := api.NewClient(s.URL, "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	var file bytes.Buffer
	index, err := c.SaveSnapshot(t.Context(), &file)
	if err != nil || index != 2 {
		t.Fatalf("index %d, %v", index, err)
	}
	b.remove("x.org")
	if got, err := c.RestoreSnapshot(t.Context(), &file); err != nil || got.Added != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	var p *api.Problem
	if _, err := c.RestoreSnapshot(t.Context(), strings.NewReader("no")); !errors.As(err, &p) || p.Code != "snapshot_damaged" {
		t.Errorf("damaged: %v", err)
	}
	open, _ := api.NewClient(s.URL, "", nil)
	defer open.CloseIdle()
	if _, err := open.SaveSnapshot(t.Context(), io.Discard); !errors.As(err, &p) || p.Status != 401 {
		t.Errorf("without a token: %v", err)
	}
}

// FuzzRestoreSnapshot: any body is restored, or refused by a problem that says why; never both.
func FuzzRestoreSnapshot(f *testing.F) {
	b := newBench(f, Config{}, "a")
	b.put("x.org", 5)
	f.Add([]byte(b.snapshot()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		b := newBench(t, Config{}, "a")
		b.put("y.org", 1)
		before := b.index
		w := b.nodes["a"].restore(string(file))
		if w.Code == 200 {
			return
		}
		if w.Code != 400 && w.Code != 413 && w.Code != 422 || b.index != before {
			t.Fatalf("%d %s, index %d", w.Code, w.Body, b.index)
		}
	})
}
