package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp/kb"
)

// TestPageForEverybody: what the page has can be reached with the keyboard, is named for who hears
// it, and fits a phone.
func TestPageForEverybody(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 5 * time.Second})
	page, others := c.leader(t)
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	tunnel := others[0].open(t, up.target)
	b := openBrowser(t, "http://"+page.api)
	b.size(t, 1440, 900, false, false)
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-host=%q]`, up.name), "3")

	pageByKeyboard(t, b, up.name)
	if err := tunnel.Broken(5 * time.Second); err == nil {
		t.Error("the tunnel that was closed by keyboard goes on")
	}
	others[0].open(t, up.target) // for the list of connections not to be empty
	for _, dark := range []bool{false, true} {
		b.size(t, 1440, 900, false, dark)
		pageViews(t, b, up.name, b.named)
		b.size(t, 360, 740, true, dark)
		pageViews(t, b, up.name, func(t *testing.T, what string) {
			b.named(t, what)
			b.fits(t, what)
		})
	}
	b.silent(t)
}

// pageViews shows one part of the page after the other, with all that opens in it.
func pageViews(t *testing.T, b *browser, host string, look func(t *testing.T, what string)) {
	press := func(selector string) { eval[bool](t, b, `(document.querySelector(%s).click(), true)`, selector) }
	press("#tab-hosts")
	look(t, "the hosts")
	press(fmt.Sprintf(`tr[data-host=%q] .open`, host))
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-detail=%q] .conns button`, host), "Close")
	press(fmt.Sprintf(`tr[data-detail=%q] .governed button`, host))
	look(t, "a host with its connections and its limit being edited")
	press(fmt.Sprintf(`tr[data-host=%q] .open`, host))
	press("#tab-limits")
	press("#limit-add")
	look(t, "the limits, and one being added")
	press("#limit-new [type=button]")
	press(fmt.Sprintf(`tr[data-limit=%q] button[aria-label^=Delete]`, host))
	look(t, "a limit being deleted")
	press(fmt.Sprintf(`tr[data-below=%q] [type=button]`, host))
	for _, scope := range []string{"client", "user", "total", "key", "connection"} {
		press("#tab-" + scope)
		look(t, "scope "+scope)
	}
	press("#tab-explain")
	eval[bool](t, b, `(document.querySelector('#explain-host').value = %s, document.querySelector('#explain-button').click(), true)`, host)
	b.shows(t, stepTime, ".explained", host)
	look(t, "what is explained")
	press("#tab-events")
	look(t, "the events")
}

// pageByKeyboard opens a host, closes its connection and edits its limit, with Tab and Enter alone.
func pageByKeyboard(t *testing.T, b *browser, host string) {
	eval[bool](t, b, `(document.activeElement.blur(), window.scrollTo(0, 0), true)`)
	first := b.tab(t)
	if first != "Skip to the hosts and limits" {
		t.Errorf("the first stop is %q", first)
	}
	b.press(t, kb.Enter)
	// From there on: the views, what narrows the table down, its columns, and its rows.
	for _, want := range []string{"Hosts", "Filter hosts", "Show", "Host", "Use", "In use", "Idle", "Limit", "Granted", "Waiting", "Refused/s", host} {
		if got := b.tab(t); !strings.HasPrefix(got, want) {
			t.Fatalf("the next stop is %q, want %q", got, want)
		}
	}
	b.press(t, kb.Enter)
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-detail=%q] .conns button`, host), "Close")
	if got := b.tab(t); got != "Edit" {
		t.Errorf("in an open host the next stop is %q", got)
	}
	b.press(t, kb.Enter)
	b.shows(t, stepTime, ".editor", "nothing changes")
	if at := eval[string](t, b, `document.activeElement.name`); at != "connections" {
		t.Errorf("in an editor that opens, the focus is on %q", at)
	}
	b.press(t, kb.Escape)
	b.gone(t, stepTime, ".editor")
	if at := b.focus(t); at != "Edit" {
		t.Errorf("behind an editor that was left, the focus is on %q", at)
	}
	if got := b.tab(t); !strings.HasPrefix(got, "Close 127.0.0.1:") {
		t.Fatalf("behind the limit comes %q", got)
	}
	b.press(t, kb.Enter)
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-detail=%q] .conns button`, host), "Really?")
	b.press(t, kb.Enter)
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-detail=%q] .connections`, host), "No open connections.")
	eval[bool](t, b, `(document.querySelector('.open[aria-expanded=true]').click(), true)`)
}

// tab goes to the next stop of the keyboard, which must be seen to have the focus, and returns its
// name.
func (b *browser) tab(t testing.TB) string {
	t.Helper()
	b.press(t, kb.Tab)
	if !eval[bool](t, b, `(() => {
		const style = getComputedStyle(document.activeElement);
		return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
	})()`) {
		t.Errorf("nothing shows that the focus is on %q", b.focus(t))
	}
	return b.focus(t)
}

// focus is the name of what has the focus.
func (b *browser) focus(t testing.TB) string {
	t.Helper()
	return eval[string](t, b, `(() => {
		const el = document.activeElement;
		return (el.getAttribute('aria-label') ?? el.labels?.[0]?.innerText ?? el.innerText ?? '').trim().split('\n')[0];
	})()`)
}

// spoken are the roles that mean nothing without a name.
var spoken = []string{"button", "link", "textbox", "searchbox", "spinbutton", "combobox", "checkbox", "tab", "tabpanel", "tablist",
	"table", "image", "columnheader", "rowheader", "dialog", "form", "navigation", "region", "heading", "group"}

// named has the browser tell what a screen reader would be told, and looks for what has no name.
func (b *browser) named(t *testing.T, what string) {
	t.Helper()
	tree := call(t, b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	seen := 0
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role := axText(t, n.Role)
		if !slices.Contains(spoken, role) {
			continue
		}
		seen++
		if name := axText(t, n.Name); strings.TrimSpace(name) == "" {
			t.Errorf("%s: a %s has no name", what, role)
		}
	}
	if seen < 10 {
		t.Errorf("%s: only %d things to name", what, seen)
	}
}

func axText(t *testing.T, v *accessibility.Value) string {
	t.Helper()
	if v == nil || len(v.Value) == 0 {
		return ""
	}
	var text string
	if err := json.Unmarshal(v.Value, &text); err != nil {
		t.Fatal(err)
	}
	return text
}

// fits checks that nothing stands out beyond the window's right edge, and that what is touched is
// large enough for it.
func (b *browser) fits(t *testing.T, what string) {
	t.Helper()
	if over := eval[int](t, b, `document.documentElement.scrollWidth - window.innerWidth`); over > 0 {
		t.Errorf("%s: %d px too wide for a phone", what, over)
	}
	small := eval[[]string](t, b, `[...document.querySelectorAll('button, select, input:not([type=checkbox])')]
		.filter((el) => el.offsetParent && el.getBoundingClientRect().height < 24)
		.map((el) => el.outerHTML.slice(0, 80) + ' ' + el.getBoundingClientRect().height)`)
	for _, s := range small {
		t.Errorf("%s: too small to be touched: %s", what, s)
	}
}
