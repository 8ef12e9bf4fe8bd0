package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

// TestPageChangesWhatItShows: a change that is applied in the page changes the limit that was
// shown, as it was shown, or none.
func TestPageChangesWhatItShows(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	b := openBrowser(t, "http://"+n.api)
	b.size(t, 1440, 900, false, false)
	b.shows(t, stepTime, "#link", "live")
	pageMeetsAnotherNewLimit(t, b, n)
	pageMeetsADeletion(t, b, n)
	pageKeepsSpaces(t, b, n)
	pageCannotAddressDots(t, b, n)
	b.silent(t, "412", "404") // which the conflicts were to bring
}

// pageMeetsAnotherNewLimit: a limit that somebody else adds while one with the same pattern is
// typed is shown, and overwritten when the change is applied again.
func pageMeetsAnotherNewLimit(t *testing.T, b *browser, n *node) {
	const pattern = "twice.example"
	b.click(t, "#tab-limits")
	b.click(t, "#limit-add")
	b.enter(t, "#limit-new [name=pattern]", pattern)
	b.enter(t, "#limit-new [name=connections]", "7")
	n.http.setLimit(t, pattern, connections(8))
	b.click(t, "#limit-new [type=submit]")
	b.shows(t, stepTime, "#limit-new form", "Somebody has added this limit meanwhile")
	b.shows(t, stepTime, "#limit-new .diff .minus", "connections: 8")
	b.enter(t, "#limit-new [name=connections]", "6")
	b.shows(t, stepTime, "#limit-new .diff .plus", "connections: 6")
	if err := n.http.limitIs(pattern, 8); err != nil {
		t.Error("before it is applied again: ", err)
	}
	b.click(t, "#limit-new [type=submit]")
	b.gone(t, stepTime, "#limit-new form")
	if err := n.http.limitIs(pattern, 6); err != nil {
		t.Error(err)
	}

	// With another pattern, it is a new limit again.
	b.click(t, "#limit-add")
	b.enter(t, "#limit-new [name=connections]", "5")
	b.enter(t, "#limit-new [name=pattern]", "first.example")
	n.http.setLimit(t, "first.example", connections(4))
	b.click(t, "#limit-new [type=submit]")
	b.shows(t, stepTime, "#limit-new form", "Somebody has added this limit meanwhile")
	b.enter(t, "#limit-new [name=pattern]", "second.example")
	b.gone(t, stepTime, "#limit-new .diff .minus")
	b.click(t, "#limit-new [type=submit]")
	b.gone(t, stepTime, "#limit-new form")
	for want, pattern := range map[int]string{4: "first.example", 5: "second.example"} {
		if err := n.http.limitIs(pattern, want); err != nil {
			t.Error(err)
		}
	}
}

// pageMeetsADeletion: a limit that somebody else deletes while it is edited is set anew when the
// change is applied again.
func pageMeetsADeletion(t *testing.T, b *browser, n *node) {
	n.http.must(t, http.StatusOK, "PUT", "/v1/limits/total", connections(20), nil)
	b.click(t, "#tab-total")
	b.shows(t, stepTime, "#scope-limit", "total: 20 connections")
	b.click(t, "#scope-limit button")
	b.enter(t, "#scope-limit [name=connections]", "30")
	n.http.must(t, http.StatusOK, "DELETE", "/v1/limits/total", "", nil)
	b.click(t, "#scope-limit [type=submit]")
	b.shows(t, stepTime, "#scope-limit form", "Somebody has deleted this limit meanwhile")
	b.gone(t, stepTime, "#scope-limit .diff .minus")
	n.http.must(t, http.StatusNotFound, "GET", "/v1/limits/total", "", nil)
	b.click(t, "#scope-limit [type=submit]")
	b.gone(t, stepTime, "#scope-limit form")
	n.http.capsConnections(t, "/v1/limits/total", 30)
}

// pageKeepsSpaces: of two names that differ by a space at an end, the one that was opened is
// changed, and deleted.
func pageKeepsSpaces(t *testing.T, b *browser, n *node) {
	const plain, spaced, trailing = "/v1/limits/key/job", "/v1/limits/key/%20job", "/v1/limits/key/job%20"
	b.click(t, "#tab-limits")
	for _, path := range []string{plain, spaced, trailing} {
		n.http.must(t, http.StatusOK, "PUT", path, connections(3), nil)
	}
	for name, path := range map[string]string{"key  job": spaced, "key job ": trailing} {
		b.click(t, fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Edit]`, name))
		editor := fmt.Sprintf(`tr[data-below=%q] form`, name)
		b.enter(t, editor+" [name=connections]", "9")
		b.click(t, editor+" [type=submit]")
		b.gone(t, stepTime, editor)
		n.http.capsConnections(t, path, 9)
		n.http.capsConnections(t, plain, 3)
		b.shows(t, stepTime, fmt.Sprintf(`tr[data-limit=%q] .num`, name), "9")
		b.click(t, fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Delete]`, name))
		b.click(t, editor+" [type=submit]")
		b.gone(t, stepTime, editor)
		n.http.must(t, http.StatusNotFound, "GET", path, "", nil)
		n.http.capsConnections(t, plain, 3)
	}
}

// pageCannotAddressDots: a limit whose pattern a browser can't put into an address is shown, with
// the way to change it, and neither it nor any other path is written to.
func pageCannotAddressDots(t *testing.T, b *browser, n *node) {
	const there = "weir limits set or weir limits delete with --scope "
	for _, pattern := range []string{".", ".."} {
		if _, problem, code := n.weir(t, "limits", "set", "--scope", "key", pattern, "--connections", "3"); code != 0 {
			t.Fatal(problem)
		}
		for _, act := range []string{"Edit", "Delete"} {
			b.click(t, fmt.Sprintf(`tr[data-limit="key %s"] button[aria-label^=%s]`, pattern, act))
			form := fmt.Sprintf(`tr[data-below="key %s"] form`, pattern)
			if act == "Edit" {
				b.enter(t, form+" [name=connections]", "9")
			}
			b.shows(t, stepTime, form, there+"key "+pattern)
			if !eval[bool](t, b, `document.querySelector(%s).disabled`, form+" [type=submit]") {
				t.Errorf("%s of key %s can be pressed", act, pattern)
			}
			b.press(t, kb.Escape)
			b.gone(t, stepTime, form)
		}
	}
	b.click(t, "#limit-add")
	eval[bool](t, b, `(() => { const s = document.querySelector('#limit-new [name=scope]'); s.value = 'user'; s.dispatchEvent(new Event('input', { bubbles: true })); return true; })()`)
	b.enter(t, "#limit-new [name=connections]", "7")
	b.enter(t, "#limit-new [name=pattern]", "..")
	b.shows(t, stepTime, "#limit-new form", there+"user ..")
	b.enter(t, "#limit-new [name=pattern]", "...")
	b.click(t, "#limit-new [type=submit]")
	b.gone(t, stepTime, "#limit-new form")
	n.http.capsConnections(t, "/v1/limits/user/...", 7)
}

// TestPageOfAnotherCluster: the page follows when another cluster answers at the node's address, as
// when a node without a disk was started again. A limit there may have the index of one that the
// page has shown before, and is neither taken for it nor overwritten unseen.
func TestPageOfAnotherCluster(t *testing.T) {
	t.Parallel()
	const pattern = "same.example"
	first := startCluster(t, shape{names: []string{"a"}}).nodes[0]
	second := startCluster(t, shape{names: []string{"a"}}).nodes[0]
	goal := 20
	for low, high := 0, 1; low != high; goal = high + 5 { // again, where another entry of a log came in between
		one, two := first.limitUpTo(t, pattern, 3, goal), second.limitUpTo(t, pattern, 8, goal)
		low, high = min(one, two), max(one, two)
	}

	var now atomic.Pointer[node]
	now.Store(first)
	front := frontOf(t, &now, func(*http.Request) bool { return false })
	b := openBrowser(t, front.URL)
	b.size(t, 1440, 900, false, false)
	b.click(t, "#tab-limits")
	row, editor := fmt.Sprintf(`tr[data-limit=%q]`, pattern), fmt.Sprintf(`tr[data-below=%q] form`, pattern)
	b.shows(t, stepTime, row+" .num", "3")
	b.click(t, row+" button[aria-label^=Edit]")
	b.enter(t, editor+" [name=connections]", "5")

	now.Store(second)
	front.CloseClientConnections()
	b.shows(t, stepTime, row+" .num", "8")
	b.click(t, editor+" [type=submit]")
	b.shows(t, stepTime, editor, "Somebody has changed this limit meanwhile")
	b.shows(t, stepTime, editor+" .diff .minus", "connections: 8")
	if err := second.http.limitIs(pattern, 8); err != nil {
		t.Error("before it is applied again: ", err)
	}
	b.click(t, editor+" [type=submit]")
	b.gone(t, stepTime, editor)
	if err := second.http.limitIs(pattern, 5); err != nil {
		t.Error(err)
	}
	b.silent(t, "ERR_")
}

// TestPageMeetsCutConnections: what the page asks by itself it asks again, without a word; what a
// person asked for is answered with what to do.
func TestPageMeetsCutConnections(t *testing.T) {
	t.Parallel()
	n := startCluster(t, shape{names: []string{"a"}}).nodes[0]
	if _, problem, code := n.weir(t, "limits", "set", "cut.example", "--connections", "3"); code != 0 {
		t.Fatal(problem)
	}
	var now atomic.Pointer[node]
	now.Store(n)
	var reads atomic.Int64
	var write atomic.Bool
	reads.Store(3)
	front := frontOf(t, &now, func(r *http.Request) bool {
		if r.Method == http.MethodPut {
			return !write.Load()
		}
		return r.URL.Path == "/v1/limits" && reads.Add(-1) >= 0
	})
	b := openBrowser(t, front.URL)
	b.size(t, 1440, 900, false, false)
	b.click(t, "#tab-limits")
	row, editor := `tr[data-limit="cut.example"]`, `tr[data-below="cut.example"] form`
	b.shows(t, stepTime, row+" .num", "3")
	if left := reads.Load(); left >= 0 {
		t.Errorf("%d more questions were to be cut", left+1)
	}
	b.click(t, row+" button[aria-label^=Edit]")
	b.enter(t, editor+" [name=connections]", "5")
	b.click(t, editor+" [type=submit]")
	b.shows(t, stepTime, editor, "The node does not answer")
	n.http.capsConnections(t, "/v1/limits/host/cut.example", 3)
	write.Store(true)
	b.click(t, editor+" [type=submit]")
	b.gone(t, stepTime, editor)
	n.http.capsConnections(t, "/v1/limits/host/cut.example", 5)
	b.silent(t, "ERR_")
}

// frontOf is a server through which one reaches the node of now, but for requests that are cut.
func frontOf(t *testing.T, now *atomic.Pointer[node], cut func(*http.Request) bool) *httptest.Server {
	t.Helper()
	relay := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: now.Load().api})
		},
		ErrorLog: log.New(io.Discard, "", 0), // streams are cut
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cut(r) {
			panic(http.ErrAbortHandler)
		}
		relay.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	return front
}

// limitUpTo writes a limit until its index is at least the one wanted, and returns that.
func (n *node) limitUpTo(t *testing.T, pattern string, most, want int) int {
	t.Helper()
	for i := 0; ; i++ {
		n.http.setLimit(t, pattern, fmt.Sprintf(`{"connections":%d,"mode":%q}`, most, []string{"report", "enforce"}[i%2]))
		var l struct {
			Index int `json:"modify_index"`
		}
		if err := n.http.read(limitPath(pattern), &l); err != nil {
			t.Fatal(err)
		}
		if l.Index >= want {
			return l.Index
		}
	}
}

// capsConnections checks the connections of the limit at a path.
func (c *client) capsConnections(t testing.TB, path string, want int) {
	t.Helper()
	var l limitAnswer
	if err := c.read(path, &l); err != nil {
		t.Error(err)
	} else if l.Connections == nil || *l.Connections != want {
		t.Errorf("%s caps %s connections; want %d", path, text(l.Connections), want)
	}
}
