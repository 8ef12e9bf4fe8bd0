package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/weirproxy/weir/e2e/load"
)

// TestPageOfScopes shows on the page what limits of every scope and resource do, changes one, and
// has one explained.
func TestPageOfScopes(t *testing.T) {
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	for path, body := range map[string]string{
		"client/127.0.0.1":     `{"connections":50,"requests":{"rate":"20/s","burst":5},"bandwidth":{"download":"50MB"},"queue":{"timeout":"5s","size":100}}`,
		"total":                `{"connections":500}`,
		"connection":           `{"bandwidth":{"download":"5MB"}}`,
		"host/" + up.name:      `{"connections":1,"mode":"report"}`,
		"host/blocked.example": connections(0),
		"user/nightly":         connections(4),
		"key/tenant%2F%2A":     `{"connections":3}`,
	} {
		n.http.must(t, http.StatusOK, "PUT", "/v1/limits/"+path, body, nil)
	}
	run := load.Start(load.Plan{Proxies: c.proxies(), Target: up.target, Workers: 12, Hold: 200 * time.Millisecond, Pause: 50 * time.Millisecond})
	t.Cleanup(func() { run.Stop() })
	b := openBrowser(t, "http://"+n.api)
	b.size(t, 1440, 900, false, false)
	b.shows(t, stepTime, "#link", "live")

	pageMarksReports(t, b, up.name)
	pageShowsScopes(t, b)
	pageEditsARate(t, b, n)
	pageExplains(t, b, up.name)
	b.silent(t, "422") // which the rate that can't be read was to bring
}

// pageMarksReports: a limit that only reports is marked, with what it would have refused.
func pageMarksReports(t *testing.T, b *browser, host string) {
	row := fmt.Sprintf(`tr[data-scope=host][data-host=%q]`, host)
	eventually(t, stepTime, "the limit is marked", func() error {
		text, err := b.text(t, row+" .badge.report")
		var many int
		if err == nil {
			_, err = fmt.Sscanf(strings.ReplaceAll(text, ",", ""), "report · %d would be refused", &many)
		}
		if err == nil && many == 0 {
			err = fmt.Errorf("it says %q", text)
		}
		return err
	})
	if got, err := b.text(t, row+" .col-refused"); err != nil || got != "0" {
		t.Errorf("a limit that only reports refuses %q a second, %v", got, err)
	}
}

// pageShowsScopes: each scope has its tab, and rates have bars and charts there.
func pageShowsScopes(t *testing.T, b *browser) {
	b.click(t, "#tab-client")
	row := `tr[data-scope=client][data-host="127.0.0.1"]`
	rate := row + ` [data-flow=requests]`
	b.shows(t, stepTime, rate, "of 20/s")
	eventually(t, stepTime, "the rate is used", func() error {
		label := eval[string](t, b, `document.querySelector(%s + ' .bar').getAttribute('aria-label')`, rate)
		var used, most float64
		if _, err := fmt.Sscanf(label, "Requests: %g/s of %g/s used", &used, &most); err != nil || used < 10 || most != 20 {
			return fmt.Errorf("it says %q", label)
		}
		return nil
	})
	eventually(t, stepTime, "a chart of the rate", func() error {
		if d := eval[string](t, b, `document.querySelector(%s + ' .spark .line').getAttribute('d') ?? ''`, rate); d == "" {
			return fmt.Errorf("nothing is drawn")
		}
		return nil
	})
	b.shows(t, stepTime, row+` [data-flow=download]`, "of 50.0 MB/s")
	b.click(t, row+" .open")
	detail := `tr[data-detail="127.0.0.1"]`
	b.shows(t, stepTime, detail+" .governed", "50 connections, 20/s requests (5 at once), 50MB/s down, queue of 100 for 5s")
	b.shows(t, stepTime, detail, "Rates by node")
	b.click(t, row+" .open")

	b.click(t, "#tab-user")
	b.shows(t, stepTime, "#host-none", "No user is counted")
	b.click(t, "#tab-total")
	b.shows(t, stepTime, "tr[data-scope=total]", "500")
	b.shows(t, stepTime, "#scope-limit", "total: 500 connections")
	b.click(t, "#tab-key")
	b.shows(t, stepTime, "#host-none", "No key is counted")
	b.click(t, "#tab-connection")
	b.shows(t, stepTime, "#scope-limit", "connection: 5MB/s down")
	b.click(t, "#scope-limit button")
	b.shows(t, stepTime, "#scope-limit .editor .diff", "nothing changes")
	if at := eval[string](t, b, `document.activeElement.name`); at != "download" {
		t.Errorf("in an editor of scope connection, the focus is on %q", at)
	}
	b.press(t, kb.Escape)
	b.gone(t, stepTime, "#scope-limit .editor")
	b.click(t, "#tab-hosts")
	b.shows(t, stepTime, "#host-rows", "report")
}

// pageEditsARate: a limit of scope client is changed, and what was not touched stays.
func pageEditsARate(t *testing.T, b *browser, n *node) {
	const name, path = "client 127.0.0.1", "/v1/limits/client/127.0.0.1"
	b.click(t, "#tab-limits")
	row := fmt.Sprintf(`tr[data-limit=%q]`, name)
	b.shows(t, stepTime, row, "20/s")
	b.click(t, row+" button[aria-label^=Edit]")
	editor := fmt.Sprintf(`tr[data-below=%q] form`, name)
	b.shows(t, stepTime, editor+" .diff", "nothing changes")
	b.enter(t, editor+" [name=rate]", "x/s")
	b.click(t, editor+" [type=submit]")
	b.shows(t, stepTime, editor+" .error", "requests.rate")
	b.enter(t, editor+" [name=rate]", "30/s")
	b.enter(t, editor+" [name=upload]", "2MB")
	b.shows(t, stepTime, editor+" .diff .minus", "requests: 20/s, 5 at once")
	b.shows(t, stepTime, editor+" .diff", "requests: 30/s, 5 at once")
	b.shows(t, stepTime, editor+" .diff", "upload: 2MB a second")
	b.click(t, editor+" [type=submit]")
	b.gone(t, stepTime, editor)
	a := n.http.must(t, http.StatusOK, "GET", path, "", nil)
	for _, want := range []string{`"connections":50`, `"requests":{"rate":"30/s","burst":5}`, `"upload":"2MB"`, `"download":"50MB"`, `"size":100`, `"mode":"enforce"`} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("after the change, %s lacks %s", a.body, want)
		}
	}
	b.shows(t, stepTime, row, "2MB/s up, 50MB/s down")

	// A new one, of a scope that is chosen in the form.
	b.click(t, "#limit-add")
	eval[bool](t, b, `(() => { const s = document.querySelector('#limit-new [name=scope]'); s.value = 'user'; s.dispatchEvent(new Event('input', { bubbles: true })); return true; })()`)
	b.enter(t, "#limit-new [name=pattern]", "*")
	b.enter(t, "#limit-new [name=connections]", "7")
	b.shows(t, stepTime, "#limit-new .diff", "user *")
	b.click(t, "#limit-new [name=shared]")
	b.click(t, "#limit-new [type=submit]")
	b.shows(t, stepTime, `tr[data-limit="user *"]`, "all together")
}

// pageExplains: what governs a connection is told in words, with what is in the way.
func pageExplains(t *testing.T, b *browser, host string) {
	b.click(t, "#tab-explain")
	b.press(t, "/")
	if id := eval[string](t, b, `document.activeElement.id`); id != "explain-host" {
		t.Errorf("after / the focus is on %q", id)
	}
	b.enter(t, "#explain-host", "blocked.example:443")
	b.enter(t, "#explain-client", "10.0.0.7")
	b.enter(t, "#explain-user", "nightly")
	b.press(t, kb.Enter)
	b.shows(t, stepTime, ".verdict", "A connection to blocked.example:443 of client 10.0.0.7, user nightly would not be let in now.")
	b.shows(t, stepTime, `tr[data-explained="blocked.example"]`, "no: blocked")
	b.shows(t, stepTime, `tr[data-explained="user nightly"]`, "0 of 4 connections")
	b.shows(t, stepTime, `tr[data-explained="total"]`, "yes")
	b.shows(t, stepTime, `tr[data-explained="connection"]`, "each by itself")
	b.press(t, kb.Escape)
	b.gone(t, stepTime, ".verdict")
	if id := eval[string](t, b, `document.activeElement.id`); id != "explain-host" {
		t.Errorf("behind an answer that was left, the focus is on %q", id)
	}
	b.enter(t, "#explain-host", host)
	b.click(t, "#explain-button")
	b.shows(t, stepTime, ".verdict", "would be let in now.")
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-explained=%q]`, host), "yes: it only reports")
}
