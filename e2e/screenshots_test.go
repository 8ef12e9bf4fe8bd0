package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"

	"github.com/weirproxy/weir/e2e/load"
)

// screenshotsVariable names the directory that TestScreenshots writes to: `make screenshots`.
const screenshotsVariable = "WEIR_E2E_SCREENSHOTS"

// scene is one host of the screenshots: what is allowed, and what is asked of it.
type scene struct {
	name    string
	limit   string // JSON; "": none of its own
	workers int
	hold    time.Duration
}

var scenes = []scene{
	{"api.example.com", queued(20, 2*time.Second, 200), 36, 300 * time.Millisecond},
	{"auth.example.com", connections(8), 14, 120 * time.Millisecond},
	{"cdn.example.net", "", 17, 500 * time.Millisecond},
	{"hooks.example.org", connections(40), 22, 400 * time.Millisecond},
	{"images.example.net", connections(12), 12, 200 * time.Millisecond},
	{"ledger.example.com", connections(3), 3, 900 * time.Millisecond},
	{"maps.example.org", "", 6, 250 * time.Millisecond},
	{"payments.example.com", queued(5, 5*time.Second, 100), 16, 350 * time.Millisecond},
	{"search.example.org", `{"connections":30,"requests":{"rate":"25/s","burst":10},"queue":{"timeout":"2s","size":100}}`, 22, 150 * time.Millisecond},
	{"weather.example.net", "", 3, 700 * time.Millisecond},
}

// TestScreenshots shows the page to those who read the documentation, at desk and phone size, light
// and dark, under load and with a dead node. It needs root, for host names that only the nodes
// know.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv(screenshotsVariable)
	if dir == "" {
		t.Skip("make screenshots writes them")
	}
	c := startCluster(t, shape{ttl: 25 * time.Second, limits: "  host \"*\" {\n    connections = 25\n  }\n", prepare: named(t)})
	leader, others := c.leader(t)
	var targets []string
	for i, s := range scenes {
		up, err := listen(sceneAddress(i))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = up.Close() }()
		if s.limit != "" {
			c.setLimit(t, s.name, s.limit)
		}
		target := strings.Replace(up.target, up.name, s.name, 1)
		targets = append(targets, target)
		run := load.Start(load.Plan{Proxies: c.proxies(), Target: target, Workers: s.workers, Hold: s.hold, Pause: 400 * time.Millisecond})
		defer func() { run.Stop() }()
	}
	leader.http.must(t, http.StatusOK, http.MethodPut, "/v1/limits/client/*", `{"connections":400,"requests":{"rate":"500/s"},"mode":"report"}`, nil)
	c.setLimit(t, "*.partner.example", connections(100))
	c.setLimit(t, "10.0.0.0/8", connections(50))
	b := openBrowser(t, "http://"+leader.api)
	b.shows(t, stepTime, `tr[data-host="payments.example.com"]`, "payments")
	waves(c, targets)
	shoot(t, b, dir, "load")
	b.size(t, 1440, 900, false, false)
	row := `document.querySelector('tr[data-host="search.example.org"] .open').click()`
	eval[bool](t, b, `(`+row+`, true)`)
	b.shows(t, stepTime, `tr[data-detail="search.example.org"] .governed`, "search.example.org")
	measure(chartTime)
	save(t, b, filepath.Join(dir, "rates.png"))
	eval[bool](t, b, `(`+row+`, true)`)
	b.click(t, "#tab-explain")
	b.enter(t, "#explain-host", "search.example.org:443")
	b.enter(t, "#explain-client", "127.0.0.1")
	b.click(t, "#explain-button")
	b.shows(t, stepTime, ".explained", "25/s")
	save(t, b, filepath.Join(dir, "explain.png"))
	b.click(t, "#tab-hosts")
	b.shows(t, stepTime, `tr[data-host="payments.example.com"]`, "payments")
	eval[bool](t, b, `(document.querySelector('tr[data-host="payments.example.com"] .open').click(), true)`)
	b.shows(t, stepTime, `tr[data-detail="payments.example.com"] .governed`, "payments.example.com")
	eval[bool](t, b, `([...document.querySelectorAll('.governed button')].find((e) => e.innerText === 'Edit').click(), true)`)
	b.enter(t, ".editor [name=connections]", "8")
	b.shows(t, stepTime, ".editor .diff", "connections: 8")
	b.shows(t, stepTime, `tr[data-detail="payments.example.com"] .connections`, "Close")
	b.size(t, 1440, 900, false, false)
	save(t, b, filepath.Join(dir, "edit.png"))
	eval[bool](t, b, `(document.querySelector('tr[data-host="payments.example.com"] .open').click(), true)`)
	b.gone(t, stepTime, ".editor")
	others[0].kill(t)
	b.shows(t, stepTime, ".reclaiming .countdown", "slots back in")
	b.shows(t, stepTime, ".node.down", "dead")
	shoot(t, b, dir, "dead")
	b.silent(t)
}

// chartTime lets the open row's charts fill with some points.
const chartTime = 8 * time.Second

// waves puts some load on one host after the other, so that the charts have something to show.
func waves(c *cluster, targets []string) {
	for i := range 12 {
		target := targets[(i*3)%len(targets)]
		run := load.Start(load.Plan{Proxies: c.proxies(), Target: target, Workers: 4 + i%5, Hold: 300 * time.Millisecond, Pause: 400 * time.Millisecond})
		measure(6 * time.Second)
		run.Stop()
	}
}

// shoot saves what the page shows now in four forms.
func shoot(t *testing.T, b *browser, dir, name string) {
	for _, dark := range []bool{false, true} {
		scheme := map[bool]string{false: "light", true: "dark"}[dark]
		b.size(t, 1440, 900, false, dark)
		save(t, b, filepath.Join(dir, fmt.Sprintf("%s-desktop-%s.png", name, scheme)))
		b.size(t, 390, 844, true, dark)
		save(t, b, filepath.Join(dir, fmt.Sprintf("%s-phone-%s.png", name, scheme)))
	}
}

// mostBytes is how large a picture in the repository may be.
const mostBytes = 150_000

func save(t *testing.T, b *browser, path string) {
	t.Helper()
	// Two frames: the first after a change of size is drawn with the old sizes of what depends on
	// it.
	eval[bool](t, b, `(window.scrollTo(0, 0), document.documentElement.offsetWidth > 0)`)
	measure(1200 * time.Millisecond)
	shot := call(t, b, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	full, err := png.Decode(bytes.NewReader(shot.Data))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, fewColours(full)); err != nil {
		t.Fatal(err)
	}
	if out.Len() > mostBytes {
		t.Errorf("%s has %d bytes; at most %d belong into the repository", filepath.Base(path), out.Len(), mostBytes)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fewColours draws a picture in its 256 most frequent colours, which suffice for a page without
// photographs.
func fewColours(full image.Image) *image.Paletted {
	bounds := full.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	all := make([]color.RGBA, 0, len(count))
	for c := range count {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return cmp.Compare(count[b], count[a]) })
	palette := make(color.Palette, 0, 256)
	for _, c := range all[:min(256, len(all))] {
		palette = append(palette, c)
	}
	nearest := make(map[color.RGBA]uint8, len(all))
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	few := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			few.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return few
}

func sceneAddress(i int) string { return fmt.Sprintf("127.78.0.%d", i+1) }

// named makes the names of the scenes known to a node alone: it runs with an /etc/hosts of its own.
func named(t *testing.T) func(*node) {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n")
	for i, s := range scenes {
		fmt.Fprintf(&hosts, "%s %s\n", sceneAddress(i), s.name)
	}
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte(hosts.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(n *node) {
		n.wrapper = []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, path}
	}
}
