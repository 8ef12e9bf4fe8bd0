package accesslog

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/proxytest"
)

// values has one value for each kind of field, as the logger and a line take them.
type values struct {
	text   string
	number uint64
	flag   bool
	addr   netip.AddrPort
	took   time.Duration
}

func (v values) line(ls *Log, now time.Time) {
	l := ls.Begin(now, "request ended")
	l.Text("text", v.text)
	l.Number("number", v.number)
	l.Flag("flag", v.flag)
	l.Addr("addr", v.addr)
	l.Duration("took", v.took)
	ls.End(l)
}

// Lines equal the logger's.
func TestLinesAreTheLoggers(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 5, 4, 3, 2, 1, 9_876_543, zone)
	cases := []values{
		{"GET", 0, true, netip.MustParseAddrPort("10.0.0.1:80"), 0},
		{"", 1 << 63, false, netip.MustParseAddrPort("[::1]:65535"), 999},
		{"reset by the client", 200, false, netip.MustParseAddrPort("[fe80::1%eth0]:1"), time.Microsecond},
		{"a\"b", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), 999_999},
		{"&<>%", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), time.Millisecond},
		{"~-}", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), 26*time.Hour + 3*time.Millisecond},
		{"a,b", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), -time.Microsecond},
		{"a\tb\x00", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), time.Second},
		{"käse", 1, true, netip.MustParseAddrPort("10.0.0.1:80"), time.Second},
	}
	for _, format := range []bool{false, true} {
		for i, v := range cases {
			now = now.Add(700 * time.Millisecond)
			var want, got bytes.Buffer
			log := hclog.New(&hclog.LoggerOptions{
				Name: "weir.proxy", Output: &want, JSONFormat: format, TimeFn: func() time.Time { return now },
			})
			ls := New(Output{Writer: &got, JSON: format}, log)
			log.Info("request ended", "text", v.text, "number", v.number, "flag", v.flag, "addr", v.addr, "took", v.took.String())
			v.line(ls, now)
			ls.Close()
			if format {
				same(t, got.Bytes(), want.Bytes())
				continue
			}
			if got.String() != want.String() {
				t.Errorf("case %d:\n got %swant %s", i, &got, &want)
			}
		}
	}
}

// same compares two JSON lines, ignoring the order of fields.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	var g, w map[string]any
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &g); err != nil || !reflect.DeepEqual(g, w) || got[len(got)-1] != '\n' {
		t.Errorf("%v:\n got %swant %s", err, got, want)
	}
}

// Lines of many goroutines are all written, whole, and in order for each goroutine.
func TestLinesOfManyGoroutines(t *testing.T) {
	const writers, each = 8, 500
	var out proxytest.Journal
	ls := New(Output{Writer: &out, JSON: true}, hclog.New(&hclog.LoggerOptions{Output: io.Discard}))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				values{text: string(rune('a' + w)), number: uint64(i)}.line(ls, time.Now())
			}
		})
	}
	wg.Wait()
	ls.Close()
	found := out.Lines(t, "request ended")
	if len(found) != writers*each {
		t.Fatalf("%d lines of %d", len(found), writers*each)
	}
	next := map[any]float64{}
	for _, l := range found {
		if l["number"] != next[l["text"]] {
			t.Fatalf("%v: number %v, want %v", l["text"], l["number"], next[l["text"]])
		}
		next[l["text"]]++
	}
	if n := ls.pending.Load(); n != 0 {
		t.Errorf("%d bytes count as pending after all was written", n)
	}
}

// stuck is an output that blocks until it is released.
type stuck struct {
	proxytest.Journal
	entered, released chan struct{}
	once              sync.Once
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.entered) })
	<-s.released
	return s.Journal.Write(b)
}

// A slow output costs lines, but no memory and no time of the goroutines that write them; the log
// reports how many.
func TestLinesAreDroppedWhereTheOutputIsStuck(t *testing.T) {
	out := &stuck{entered: make(chan struct{}), released: make(chan struct{})}
	var log proxytest.Journal
	ls := New(Output{Writer: out, JSON: true}, hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true}))
	long := values{text: strings.Repeat("x", 64<<10)}
	long.line(ls, time.Now())
	<-out.entered
	const more = 100
	for range more {
		long.line(ls, time.Now())
	}
	if n := ls.pending.Load(); n > maxPendingLines {
		t.Errorf("%d bytes are pending", n)
	}
	close(out.released)
	ls.Close()
	written := len(out.Lines(t, "request ended"))
	told := log.Lines(t, "the log's output is too slow: lines of finished tunnels and requests were dropped")
	if len(told) != 1 || told[0]["lines"] != float64(1+more-written) || written < maxPendingLines/(65<<10) {
		t.Errorf("%d lines written of %d, and the log says %v", written, 1+more, told)
	}
}

// Unwanted lines are not formatted.
func TestLinesFollowTheLoggersLevel(t *testing.T) {
	log := hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Warn})
	for _, c := range []struct {
		to   Output
		want bool
	}{{Output{Writer: io.Discard}, true}, {Output{}, false}} {
		log.SetLevel(hclog.Warn)
		ls := New(c.to, log)
		if ls.Wanted() {
			t.Error("wanted at warn")
		}
		if log.SetLevel(hclog.Info); ls.Wanted() != c.want {
			t.Errorf("at info: %t", ls.Wanted())
		}
		ls.Close()
	}
}

// At any time the lines can be turned off, redirected, and made independent of the logger's level.
func TestLinesGoElsewhere(t *testing.T) {
	log := hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Warn})
	first, second := proxytest.Journal{Written: make(chan struct{}, 1)}, proxytest.Journal{}
	ls := New(Output{Writer: &first, JSON: true, Always: true}, log)
	write := func(text string) {
		if ls.Wanted() {
			values{text: text}.line(ls, time.Now())
		}
	}
	write("one")
	<-first.Written
	ls.SetOutput(Output{})
	write("lost")
	ls.SetOutput(Output{Writer: &second, JSON: true})
	write("below the level")
	log.SetLevel(hclog.Info)
	write("two")
	ls.Close()
	if got := second.Lines(t, "request ended"); len(got) != 1 || got[0]["text"] != "two" || len(first.Lines(t, "request ended")) != 1 {
		t.Errorf("%v, then %v", first.Lines(t, "request ended"), got)
	}
}

func BenchmarkLine(b *testing.B) {
	ls := New(Output{Writer: io.Discard}, hclog.New(&hclog.LoggerOptions{Output: io.Discard}))
	defer ls.Close()
	v := values{"closed", 200, true, netip.MustParseAddrPort("127.0.0.1:40000"), 345 * time.Microsecond}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		v.line(ls, now)
	}
}
