package e2e

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/weirproxy/weir/e2e/load"
)

// TestPage drives the page in a real browser against three nodes under load, as an operator would.
// Like the others here it is not parallel: a browser would take the time of those that measure.
func TestPage(t *testing.T) {
	c := startWatched(t)
	busy, quiet, page := c.busy, c.quiet, c.leads
	b := openBrowser(t, "http://"+page.api)
	b.size(t, 1440, 900, false, false)

	b.shows(t, 20*time.Second, "#link", "live")
	b.shows(t, 10*time.Second, "#node-list", "leader")
	for _, n := range c.nodes {
		b.shows(t, 10*time.Second, fmt.Sprintf(`[data-node=%q]`, n.name), "alive")
	}
	pageMoves(t, c.cluster, b, busy.name)
	pageEdits(t, b, page, busy.name)
	pageAddsAndDeletes(t, b, page)
	pageConflicts(t, b, page, busy.name)
	pageCloses(t, b, quiet.name, c.tunnel)
	pageKeys(t, b)
	pageCountsDown(t, c.cluster, b, c.idle)
	b.silent(t, "412") // which the conflict was to bring
}

// pageMoves: the host's row is there, its bar and its chart follow what happens, and refusals are
// counted.
func pageMoves(t *testing.T, c *cluster, b *browser, host string) {
	row := fmt.Sprintf(`tr[data-host=%q]`, host)
	b.shows(t, 10*time.Second, row, "6")
	chart := `document.querySelector(%s + ' .spark .line')?.getAttribute('d') ?? ''`
	drawn := eval[string](t, b, chart, row)
	for _, limit := range []int{4, 6} {
		c.setLimit(t, host, connections(limit))
		eventually(t, 10*time.Second, "the bar follows the limit", func() error {
			label := eval[string](t, b, `document.querySelector(%s + ' .bar')?.getAttribute('aria-label') ?? ''`, row)
			if !strings.HasPrefix(label, fmt.Sprintf("%d of %d in use", limit, limit)) {
				return fmt.Errorf("it says %q", label)
			}
			return nil
		})
	}
	if now := eval[string](t, b, chart, row); now == drawn || now == "" {
		t.Errorf("the chart has not moved: %q", now)
	}
	eventually(t, 10*time.Second, "refusals per second", func() error {
		text, err := b.text(t, row+" .col-refused")
		if err == nil {
			var n float64
			if n, err = strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64); err == nil && n <= 0 {
				err = fmt.Errorf("%v a second", n)
			}
		}
		return err
	})
}

// pageEdits: a limit is changed where it stands. The difference is shown, and nothing is written,
// before Apply is pressed.
func pageEdits(t *testing.T, b *browser, n *node, pattern string) {
	b.click(t, "#tab-limits")
	b.click(t, fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Edit]`, pattern))
	editor := fmt.Sprintf(`tr[data-below=%q] form`, pattern)
	b.shows(t, 5*time.Second, editor+" .diff", "nothing changes")
	if at := eval[string](t, b, `document.activeElement.name ?? ''`); at != "connections" {
		t.Errorf("in an editor that opens, the focus is on %q", at)
	}
	eval[bool](t, b, `(document.activeElement.blur(), true)`) // as a click beside the fields does
	b.press(t, kb.Escape)
	b.gone(t, 5*time.Second, editor)
	if at := b.focus(t); at != "Edit the limit on "+pattern {
		t.Errorf("behind an editor that was left, the focus is on %q", at)
	}
	b.click(t, fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Edit]`, pattern))
	b.enter(t, editor+" [name=connections]", "9")
	b.shows(t, 5*time.Second, editor+" .diff .minus", "connections: 6")
	b.shows(t, 5*time.Second, editor+" .diff .plus", "connections: 9")
	if err := n.http.limitIs(pattern, 6); err != nil {
		t.Error("before it is applied: ", err)
	}
	b.click(t, editor+" [type=submit]")
	b.gone(t, 5*time.Second, editor)
	if err := n.http.limitIs(pattern, 9); err != nil {
		t.Error(err)
	}
	b.shows(t, 5*time.Second, fmt.Sprintf(`tr[data-limit=%q] .num`, pattern), "9")
	b.shows(t, 5*time.Second, "#event-rows", fmt.Sprintf("limit on %s changed: 9 connections, was 6 connections", pattern))
	b.shows(t, 5*time.Second, "#event-rows", "by 127.0.0.1:")
}

func pageAddsAndDeletes(t *testing.T, b *browser, n *node) {
	const pattern = "*.added.example"
	b.click(t, "#limit-add")
	b.enter(t, "#limit-new [name=pattern]", pattern)
	b.enter(t, "#limit-new [name=connections]", "12")
	b.enter(t, "#limit-new [name=timeout]", "2s")
	b.shows(t, 5*time.Second, "#limit-new .diff", "queue: 100 per node, for 2s")
	b.click(t, "#limit-new [type=submit]")
	row := fmt.Sprintf(`tr[data-limit=%q]`, pattern)
	b.shows(t, 5*time.Second, row, "100 for 2s")
	if err := n.http.limitIs(pattern, 12); err != nil {
		t.Error(err)
	}
	b.click(t, row+" button[aria-label^=Delete]")
	below := fmt.Sprintf(`tr[data-below=%q] form`, pattern)
	b.shows(t, 5*time.Second, below+" .diff .minus", "connections: 12")
	b.press(t, kb.Escape)
	b.gone(t, 5*time.Second, below)
	b.click(t, row+" button[aria-label^=Delete]")
	b.click(t, below+" [type=submit]")
	b.gone(t, 5*time.Second, row)
	if at := b.focus(t); at != "Add a limit" {
		t.Errorf("behind a limit that was deleted, the focus is on %q", at)
	}
	n.http.must(t, http.StatusNotFound, "GET", limitPath(pattern), "", nil)
}

// pageConflicts: what somebody else has written meanwhile is not written over unseen.
func pageConflicts(t *testing.T, b *browser, n *node, pattern string) {
	b.click(t, fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Edit]`, pattern))
	editor := fmt.Sprintf(`tr[data-below=%q] form`, pattern)
	b.enter(t, editor+" [name=connections]", "7")
	n.http.setLimit(t, pattern, connections(8))
	b.click(t, editor+" [type=submit]")
	b.shows(t, 5*time.Second, editor, "Somebody has changed this limit meanwhile")
	b.shows(t, 5*time.Second, editor+" .diff .minus", "connections: 8")
	if err := n.http.limitIs(pattern, 8); err != nil {
		t.Error(err)
	}
	b.click(t, editor+" [type=submit]")
	b.gone(t, 5*time.Second, editor)
	if err := n.http.limitIs(pattern, 7); err != nil {
		t.Error(err)
	}
	b.click(t, "#tab-hosts")
}

// pageCloses: a connection on another node is closed, by a button pressed twice.
func pageCloses(t *testing.T, b *browser, host string, tunnel *load.Tunnel) {
	mustLive(t, "before it is closed", tunnel)
	b.enter(t, "#host-filter", host)
	b.rows(t, 1) // or the mouse might hit another, that is about to go
	b.click(t, fmt.Sprintf(`tr[data-host=%q] .open`, host))
	button := fmt.Sprintf(`tr[data-detail=%q] tr[data-connection] button`, host)
	b.shows(t, 10*time.Second, button, "Close")
	b.click(t, button)
	b.shows(t, 5*time.Second, button, "Really?")
	b.click(t, button)
	if err := tunnel.Broken(5 * time.Second); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the tunnel lives on")
	}
	b.shows(t, 10*time.Second, fmt.Sprintf(`tr[data-detail=%q] .connections`, host), "No open connections.")
}

// pageKeys: the page can be used without a mouse.
func pageKeys(t *testing.T, b *browser) {
	eval[bool](t, b, `(document.activeElement.blur(), true)`)
	b.press(t, "/")
	if id := eval[string](t, b, `document.activeElement.id`); id != "host-filter" {
		t.Errorf("after / the focus is on %q", id)
	}
	b.enter(t, "#host-filter", "nothing has this name")
	b.shows(t, 5*time.Second, "#host-none", "No host matches")
	eval[bool](t, b, `(document.querySelector('#host-filter').value = '', document.querySelector('#host-filter').dispatchEvent(new Event('input')), true)`)
	eval[bool](t, b, `(document.querySelector('#tab-hosts').focus(), true)`)
	b.press(t, kb.ArrowRight)
	if selected := eval[string](t, b, `document.querySelector('[role=tab][aria-selected=true]').id`); selected != "tab-client" {
		t.Errorf("after → the view is %q", selected)
	}
	b.press(t, kb.ArrowLeft)
}

// pageCountsDown: of a dead node the time until its slots come back, counted down; then the log
// says that they have.
func pageCountsDown(t *testing.T, c *cluster, b *browser, victim *node) {
	up := c.upstream(t)
	victim.openMany(t, up.target, 3)
	victim.kill(t)
	card := fmt.Sprintf(`[data-node=%q]`, victim.name)
	left := func() (s float64, err error) {
		text, err := b.text(t, card+" .countdown")
		if err == nil {
			_, err = fmt.Sscanf(text, "slots back in %g s", &s)
		}
		return s, err
	}
	var first float64
	eventually(t, 10*time.Second, "a countdown", func() (err error) {
		first, err = left()
		return err
	})
	if first <= 0 || first > (c.shape.ttl+time.Second).Seconds() {
		t.Errorf("the countdown begins at %v s", first)
	}
	eventually(t, 5*time.Second, "it counts down", func() error {
		if now, err := left(); err == nil && now >= first {
			return fmt.Errorf("it shows %v", now)
		}
		return nil
	})
	b.shows(t, 5*time.Second, card, "holds ")
	b.shows(t, 10*time.Second, card, "dead")
	b.shows(t, 10*time.Second, "#event-rows", "reclaimed from "+victim.name)
	b.shows(t, 10*time.Second, "#event-rows", victim.name+" is dead")
}

// TestPageWithThousandsOfHosts: the page sorts, filters and turns pages without standing still.
func TestPageWithThousandsOfHosts(t *testing.T) {
	const hosts = 5000
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	c.setLimit(t, "*.many.example", connections(0)) // each is counted, and none is dialled
	for i := range hosts {
		n.refuse(t, fmt.Sprintf("h%04d.many.example:443", i), "connection_limit_reached")
	}
	b := openBrowser(t, "http://"+n.api)
	b.shows(t, stepTime, "#count-hosts", "5,000")
	b.shows(t, stepTime, "#host-pages", "1–50 of 5,000")
	b.click(t, "#host-pages button:last-child")
	b.shows(t, stepTime, "#host-pages", "51–100 of 5,000")
	// A frame is drawn behind each step: that is how long a person waits. The browser itself tells
	// of everything that has kept it from drawing for more than 50 ms, also while nothing is
	// touched and the numbers of all hosts come in.
	frames := eval[[]float64](t, b, `(async () => {
		const took = [];
		window.long = [];
		new PerformanceObserver((list) => window.long.push(...list.getEntries().map((e) => e.duration))).observe({ type: 'longtask' });
		const step = async (act) => {
			const begun = performance.now();
			act();
			await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
			took.push(performance.now() - begun);
		};
		const filter = document.querySelector('#host-filter');
		for (const text of ['h', 'h2', 'h29', 'h299', '']) {
			await step(() => { filter.value = text; filter.dispatchEvent(new Event('input')); });
		}
		for (const button of document.querySelectorAll('#host-head .sort')) await step(() => button.click());
		return took;
	})()`)
	for _, ms := range frames {
		if ms > 1000 {
			t.Errorf("a step took %.0f ms to be drawn", ms)
		}
	}
	for i := range hosts { // each second, the numbers of hundreds change
		n.refuse(t, fmt.Sprintf("h%04d.many.example:443", i), "connection_limit_reached")
	}
	long := eval[[]float64](t, b, `window.long`)
	for _, ms := range long {
		if ms > 500 {
			t.Errorf("the page stood still for %.0f ms", ms)
		}
	}
	t.Logf("steps took %.0f ms; what took longer than 50 ms: %.0f", frames, long)
	b.enter(t, "#host-filter", "h299")
	b.rows(t, 10)
	b.silent(t)
}

// TestPageAsksForAToken: without one there is nothing to see; a wrong one is refused; the right one
// stays until the tab is closed.
func TestPageAsksForAToken(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		n.token = filepath.Join(filepath.Dir(n.config), "token")
		if err := os.WriteFile(n.token, []byte("open-sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}})
	b := openBrowser(t, "http://"+c.nodes[0].api)
	b.shows(t, 20*time.Second, "#token-dialog[open]", "token")
	b.enter(t, "#token-input", "wrong")
	b.click(t, "#token-form [type=submit]")
	b.shows(t, 10*time.Second, "#token-error", "not one of this node's")
	pageGoesOnWithoutAToken(t, b)
	b.enter(t, "#token-input", "open-sesame")
	b.click(t, "#token-form [type=submit]")
	b.shows(t, 10*time.Second, "#link", "live")
	b.gone(t, 5*time.Second, "#token-dialog[open]")
	b.reload(t)
	b.shows(t, 10*time.Second, "#link", "live")
	b.gone(t, 5*time.Second, "#token-dialog[open]")

	// A node that goes away and comes back is followed again, without a hand being moved.
	n := c.nodes[0]
	n.kill(t)
	b.shows(t, 20*time.Second, "#link", "reconnecting")
	n.start(t)
	n.awaitReady(t, 20*time.Second)
	b.shows(t, 20*time.Second, "#link", "live")
	b.shows(t, 10*time.Second, "#total-nodes", "1/1")
	b.gone(t, 5*time.Second, "#token-dialog[open]")
	b.silent(t, "401", "ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE")
}

// pageGoesOnWithoutAToken: Escape closes the dialog, which stays closed while the page tries again,
// until the button opens it, as often as it is pressed.
func pageGoesOnWithoutAToken(t *testing.T, b *browser) {
	b.press(t, kb.Escape)
	b.gone(t, 5*time.Second, "#token-dialog[open]")
	b.shows(t, 10*time.Second, "#link", "token needed")
	tries := func() int {
		return eval[int](t, b, `performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/v1/events')).length`)
	}
	before := tries()
	eventually(t, 20*time.Second, "the page tries again", func() error {
		if now := tries(); now < before+2 {
			return fmt.Errorf("%d times, after %d", now, before)
		}
		return nil
	})
	b.gone(t, 0, "#token-dialog[open]")
	b.click(t, "#token-button")
	b.shows(t, 5*time.Second, "#token-dialog[open]", "token")
	b.press(t, kb.Escape)
	b.gone(t, 5*time.Second, "#token-dialog[open]")
	b.click(t, "#token-button")
	b.shows(t, 5*time.Second, "#token-dialog[open]", "token")
}

// TestPageBehindTLS: a balancer that speaks TLS stands before the node, and the page and its stream
// work through it.
func TestPageBehindTLS(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	target := &url.URL{Scheme: "http", Host: n.api}
	balancer := httptest.NewTLSServer(&httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: log.New(io.Discard, "", 0), // the browser leaves while its stream goes on
	})
	defer balancer.Close()
	defer balancer.CloseClientConnections()
	b := openBrowser(t, balancer.URL, chromedp.Flag("ignore-certificate-errors", true))
	b.shows(t, 20*time.Second, "#link", "live")
	b.click(t, "#tab-limits")
	pageAddsAndDeletes(t, b, n)
	b.silent(t)
}
