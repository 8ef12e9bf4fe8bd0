package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/weirproxy/weir/e2e/load"
)

// TestPageWithManyClients: a thousand clients, each under two limits of its own with a rate, are
// shown, sorted and found, one that only reports is marked, and why one is let in is explained;
// also in a narrow window, out of which nothing sticks.
func TestPageWithManyClients(t *testing.T) {
	const clients = 1000
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	for path, body := range map[string]string{
		"client/%2A":         `{"connections":3,"requests":{"rate":"1/s","burst":2},"bandwidth":{"download":"1MB"}}`,
		"client/127.31.3.50": `{"connections":1,"requests":{"rate":"1/h","burst":1},"mode":"report"}`,
	} {
		n.http.must(t, http.StatusOK, "PUT", "/v1/limits/"+path, body, nil)
	}
	address := func(i int) string { return fmt.Sprintf("127.31.%d.%d", i/250, 1+i%250) }
	var held [clients]*load.Tunnel
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < clients; i += 8 {
				held[i], _ = from(address(i)).try(n, up.target)
			}
		})
	}
	wg.Wait()
	for i := range held {
		if held[i] == nil {
			t.Fatalf("client %s was not let in", address(i))
		}
	}
	reporting := from("127.31.3.50").open(t, n, up.target) // above both of its limits

	b := openBrowser(t, "http://"+n.api)
	for _, narrow := range []bool{false, true} {
		width := int64(1440)
		if narrow {
			width = 390
		}
		b.size(t, width, 844, narrow, false)
		b.click(t, "#tab-client")
		b.enter(t, "#host-filter", kb.Backspace)
		b.shows(t, stepTime, "#host-pages", "of 1,000")
		b.roomy(t, fmt.Sprintf("clients, %d wide", width), narrow)
		b.enter(t, "#host-filter", "127.31.3.50")
		b.rows(t, 1)
		row := `tr[data-scope=client][data-host="127.31.3.50"]`
		b.shows(t, stepTime, row+" .badge.report", "report")
		b.shows(t, stepTime, row+" [data-flow=requests]", "of 1/h")
		b.click(t, row+" .open")
		b.shows(t, stepTime, `tr[data-detail="127.31.3.50"]`, "Rates by node")
		b.roomy(t, fmt.Sprintf("a client, %d wide", width), narrow)
		b.click(t, row+" .open")

		b.click(t, "#tab-explain")
		eval[bool](t, b, `(document.querySelector('#explain-host').value = %s, document.querySelector('#explain-client').value = '127.31.0.9',
			document.querySelector('#explain-button').click(), true)`, up.target)
		b.shows(t, stepTime, ".explained", "127.31.0.9")
		b.shows(t, stepTime, ".explained", "1/s")
		b.roomy(t, fmt.Sprintf("what is explained, %d wide", width), narrow)
	}
	b.silent(t)
	end(t, append(held[:], reporting)...)
}

// TestPageFindsNamesBeyondTheList: of a scope with more names than one answer has, the page says
// that there are more, and finds one of the others by how its name begins.
func TestPageFindsNamesBeyondTheList(t *testing.T) {
	t.Parallel()
	const clients = 1000
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	// Each client is counted, and none of its connections is dialled.
	n.http.must(t, http.StatusOK, "PUT", "/v1/limits/client/%2A", connections(0), nil)
	b := openBrowser(t, "http://"+n.api)
	b.size(t, 1440, 900, false, false)
	b.click(t, "#tab-client")
	refused := func(address string) {
		if tunnel, err := from(address).try(n, "127.0.0.1:9"); err == nil {
			_ = tunnel.Close()
			t.Errorf("client %s was let in", address)
		}
	}
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < clients; i += 8 {
				refused(fmt.Sprintf("127.31.%d.%d", i/250, 1+i%250))
			}
		})
	}
	wg.Wait()
	b.shows(t, stepTime, "#host-pages", "of 1,000")
	if !eval[bool](t, b, `document.querySelector('#host-cut').hidden`) {
		t.Error("all are shown, and the page says that there are more")
	}

	const last = "127.99.0.1" // by name, as all have the same in use
	refused(last)
	b.shows(t, stepTime, "#host-cut", "There are more clients than can be shown: these are the 1,000 with the most connections in use.")
	b.roomy(t, "more clients than can be shown", false)
	b.enter(t, "#host-filter", last)
	b.rows(t, 1)
	b.shows(t, stepTime, fmt.Sprintf(`tr[data-scope=client][data-host=%q]`, last), "0")
	b.shows(t, stepTime, "#host-cut", "and all that begin with “127.99.0.1”.")
	b.enter(t, "#host-filter", "127.98")
	b.shows(t, stepTime, "#host-none", "No client matches the filter.")
	b.size(t, 390, 844, true, false)
	b.roomy(t, "more clients than can be shown, narrow", true)
	b.silent(t)
}

// roomy checks that nothing is wider than its place; narrow, what fits checks too.
func (b *browser) roomy(t *testing.T, what string, narrow bool) {
	t.Helper()
	if narrow {
		b.fits(t, what)
	}
	for _, s := range eval[[]string](t, b, `[...document.querySelectorAll('main td, main th, main button, main .badge')].filter((el) => {
		const style = getComputedStyle(el);
		return el.offsetParent && el.scrollWidth > el.clientWidth + 1 && style.overflowX === 'visible' && style.display !== 'inline' && style.display !== 'contents';
	}).slice(0, 5).map((el) => el.className + ' ' + el.innerText.slice(0, 40))`) {
		t.Errorf("%s: wider than its place: %s", what, s)
	}
}
