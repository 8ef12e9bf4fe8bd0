package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// stepTime is how long a step in the browser may take.
const stepTime = 20 * time.Second

// browser is one page in a headless Chromium, and what it has complained of.
type browser struct {
	ctx    context.Context
	origin string

	mu         sync.Mutex
	complaints []string
}

// openBrowser shows the address in a Chromium of its own, which is closed when the test ends.
// Without one on the machine the test is skipped, and says so.
func openBrowser(t testing.TB, origin string, flags ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		fmt.Fprintln(os.Stderr, "*** NOT TESTED: the page needs chromium ***")
		t.Skip("there is no Chromium: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root can't have; the page is ours
		chromedp.Flag("no-proxy-server", true),
	)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(t.Logf))
	b := &browser{ctx: ctx, origin: origin}
	var listening sync.WaitGroup
	t.Cleanup(func() {
		ctx, cancelled := context.WithTimeout(ctx, 20*time.Second)
		defer cancelled()
		_ = chromedp.Cancel(ctx)
		cancel()
		stop()
		listening.Wait()
	})
	said := chromedp.Console(ctx) // starts the browser, which lives as long as ctx
	sent := chromedp.Events(ctx, network.RequestWillBeSent)
	listening.Go(func() { b.listen(said) })
	listening.Go(func() { b.watch(sent) })
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	b.do(t, time.Minute, chromedp.Navigate(origin+"/ui/"))
	return b
}

// listen notes errors and warnings on the console, and exceptions.
func (b *browser) listen(said iter.Seq2[chromedp.ConsoleMessage, error]) {
	for m, err := range said {
		if err != nil {
			return
		}
		if m.IsException() || m.Type == "error" || m.Type == "warning" || m.Type == "assert" {
			b.complain("%s %s %s", m.Type, m.Text, m.URL)
		}
	}
}

// watch notes requests that leave the node.
func (b *browser) watch(sent iter.Seq2[network.EventRequestWillBeSent, error]) {
	for e, err := range sent {
		if err != nil {
			return
		}
		if !strings.HasPrefix(e.Request.URL, b.origin+"/") {
			b.complain("a request to %s", e.Request.URL)
		}
	}
}

func (b *browser) complain(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, fmt.Sprintf(format, args...))
}

// silent checks that nothing was complained of, but for what contains one of the words given.
func (b *browser) silent(t testing.TB, but ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
next:
	for _, c := range b.complaints {
		for _, word := range but {
			if strings.Contains(c, word) {
				continue next
			}
		}
		t.Errorf("the browser says: %s", c)
	}
}

// do carries out what must be done within a time.
func (b *browser) do(t testing.TB, within time.Duration, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, within)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// eval evaluates an expression and decodes what it is.
func eval[T any](t testing.TB, b *browser, format string, args ...any) T {
	t.Helper()
	quoted := make([]any, len(args))
	for i, a := range args {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		quoted[i] = string(text)
	}
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](fmt.Sprintf(format, quoted...), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// text is an element's text; an error when there is none.
func (b *browser) text(t testing.TB, selector string) (string, error) {
	t.Helper()
	s := eval[*string](t, b, `document.querySelector(%s)?.innerText ?? null`, selector)
	if s == nil {
		return "", fmt.Errorf("there is no %s", selector)
	}
	return strings.TrimSpace(*s), nil
}

// shows waits until an element's text contains what is wanted.
func (b *browser) shows(t testing.TB, within time.Duration, selector, want string) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%s shows %q", selector, want), func() error {
		got, err := b.text(t, selector)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("it shows %q", got)
		}
		return err
	})
}

// gone waits until there is no such element.
func (b *browser) gone(t testing.TB, within time.Duration, selector string) {
	t.Helper()
	eventually(t, within, selector+" is gone", func() error {
		if _, err := b.text(t, selector); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}

// rows waits until the table of hosts has so many.
func (b *browser) rows(t testing.TB, want int) {
	t.Helper()
	eventually(t, stepTime, fmt.Sprintf("%d rows", want), func() error {
		if got := eval[int](t, b, `document.querySelectorAll('#host-rows > tr').length`); got != want {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// click presses the mouse on an element; again, where the element moved away from under it, as it
// may while the page's first numbers arrive.
func (b *browser) click(t testing.TB, selector string) {
	t.Helper()
	at := chromedp.CSS(selector)
	eventually(t, stepTime, "a click on "+selector, func() error {
		b.do(t, stepTime, chromedp.ScrollIntoView(at, chromedp.NodeVisible))
		eval[bool](t, b, `(window.pressed = false,
			document.querySelector(%s)?.addEventListener('click', () => { window.pressed = true; }, { capture: true, once: true }), true)`, selector)
		b.do(t, stepTime, chromedp.Click(at, chromedp.NodeVisible))
		if !eval[bool](t, b, `window.pressed !== false`) { // a new page has no such variable
			return errors.New("something else was under the mouse")
		}
		return nil
	})
}

// enter types text into a field, in place of what it held.
func (b *browser) enter(t testing.TB, selector, text string) {
	t.Helper()
	at := chromedp.CSS(selector)
	b.do(t, stepTime, chromedp.Focus(at, chromedp.NodeVisible))
	eval[bool](t, b, `(document.querySelector(%s).select(), true)`, selector)
	b.do(t, stepTime, chromedp.SendKeys(at, text))
}

// size gives the window a size, and says which colours are preferred. A phone's pixels are two to a
// point.
func (b *browser) size(t testing.TB, width, height int64, phone, dark bool) {
	t.Helper()
	scheme, scale := "light", 1.0
	if dark {
		scheme = "dark"
	}
	if phone {
		scale = 2
	}
	call(t, b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: scale, Mobile: phone,
	})
	call(t, b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// call makes a call of the DevTools protocol.
func call[P, R any](t testing.TB, b *browser, command cdp.Command[P, R], params P) R {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// press presses one key, wherever the focus is.
func (b *browser) press(t testing.TB, key string) {
	t.Helper()
	b.do(t, stepTime, chromedp.KeyEvent(key))
}

func (b *browser) reload(t testing.TB) {
	t.Helper()
	b.do(t, stepTime, chromedp.Reload())
}
