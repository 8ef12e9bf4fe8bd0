package lease

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/limit"
)

// overs are the lines about limits that only report, without what all of them begin with.
func overs(log *bytes.Buffer) []string {
	var lines []string
	for line := range strings.Lines(log.String()) {
		_, line, _ = strings.Cut(line, "over ")
		lines = append(lines, strings.TrimSpace(line))
	}
	log.Reset()
	return lines
}

// The log names what a limit that only reports would have refused: each key once in a period, and
// how often that happened besides.
func TestExceededLimitsAreLogged(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, reportLimit(t, "*", 0))
	var out bytes.Buffer
	over := exceededLog{log: hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true})}
	look := func(now time.Duration) []string {
		over.look(now, &m.node.exceeded, m.node.Table())
		return overs(&out)
	}
	if got := look(0); len(got) > 0 {
		t.Errorf("nothing was over a limit: %q", got)
	}
	mustAcquire(t, m, "up")
	mustAcquire(t, m, "up")
	want := `a limit that only reports: scope=host name=up resource=connections pattern="*" times=2`
	if got := look(time.Second); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	for i := range exceededShown + 2 {
		mustAcquire(t, m, "up")
		mustAcquire(t, m, fmt.Sprintf("host%d", i))
	}
	if got := look(2 * time.Second); len(got) != exceededShown-1 {
		t.Errorf("%d lines for further keys, want %d: %q", len(got), exceededShown-1, got)
	}
	if got := look(time.Second + exceededEvery - 1); len(got) > 0 {
		t.Errorf("within the period: %q", got)
	}
	want = fmt.Sprintf("limits that only report, not shown: times=%d", exceededShown+2+3)
	if got := look(time.Second + exceededEvery); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	mustAcquire(t, m, "up")
	if got := look(2 * exceededEvery); len(got) != 1 || !strings.HasSuffix(got[0], "times=1") {
		t.Errorf("in the next period: %q", got)
	}
}

// More keys than can be noted are added up.
func TestExceededIsBounded(t *testing.T) {
	var e exceeded
	for i := range 2 * maxExceeded {
		e.note(limit.HostConnections(fmt.Sprint(i)))
	}
	if times, more := e.take(); len(times) != maxExceeded || more != maxExceeded {
		t.Errorf("%d keys and %d more, want %d and %d", len(times), more, maxExceeded, maxExceeded)
	}
	if times, more := e.take(); len(times) > 0 || more > 0 {
		t.Errorf("taken twice: %v, %d", times, more)
	}
}

// The totals of a limit that holds for each connection outlive the connections: of what passed, and
// of what it would have held back.
func TestTotalsOfEachConnectionsLimit(t *testing.T) {
	l := scopePaced(t, limit.ScopeConnection, "", 100_000, 8<<10)
	l.Report = true
	m, _ := meterNode(t, nil, l)
	for range 3 {
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		for range 4 { // the first two are within it
			if n := f.Take(4096); n != 4096 {
				t.Fatalf("%d of 4096 bytes", n)
			}
		}
		f.Put(96)
		f.End()
	}
	key := limit.Key{Scope: limit.ScopeConnection, Resource: limit.Download}
	want := Use{Key: key, Limit: m.node.table.Load().Governing(key), Admitted: 3 * (4*4096 - 96), WouldReject: 3 * 2}
	if got, known := m.Use(key); !known || got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if all := m.Uses(); len(all) != 1 || all[0] != want {
		t.Errorf("%+v, want %+v alone", all, want)
	}
	key.Resource = limit.Upload
	if u, known := m.Use(key); known {
		t.Errorf("%+v, without a limit", u)
	}
	m.node.table.Store(nil) // as before the first limits
	key.Resource = limit.Download
	if u, known := m.Use(key); !known || u.Limit != nil || u.Admitted != want.Admitted {
		t.Errorf("%+v, before the first limits", u)
	}
}

// Bytes that a limit on bandwidth would have held back are noted on both ways of taking them.
func TestExceededBandwidthIsNoted(t *testing.T) {
	l := pacedAt(t, 1_000_000, 64<<10)
	l.Report = true
	m, _ := meterNode(t, upDownload, l)
	f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
	defer f.End()
	for i := range 3 {
		if n := f.Take(1 << 20); n == 0 {
			t.Fatal("a limit that only reports holds bytes back")
		}
		if times, _ := m.node.exceeded.take(); times[upDownload[0]] != 1 {
			t.Errorf("piece %d is noted %d times", i, times[upDownload[0]])
		}
	}
}

// A node without units asks for some while bytes pass a limit that only reports. What passes
// meanwhile counts as held back from where all units together could not have let it through: a
// short burst is over before any of them is there.
func TestBurstAboveAReportedBandwidthCounts(t *testing.T) {
	l := pacedAt(t, 1_000_000, 64<<10)
	l.Report = true
	m, clock := meterNode(t, nil, l)
	for burst := range 3 {
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		var counted []int
		for piece := range 20 {
			if n := f.Take(4096); n != 4096 {
				t.Fatalf("%d of 4096 bytes", n)
			}
			if times, _ := m.node.exceeded.take(); times[upDownload[0]] > 0 {
				counted = append(counted, piece)
			}
			if piece == 9 { // 10,000 bytes come: two pieces more
				m.pass(clock, 10*time.Millisecond)
			}
			if piece == 10 { // not all of it was moved
				f.Put(4096)
			}
		}
		if fmt.Sprint(counted) != fmt.Sprint([]int{19}) {
			t.Errorf("of burst %d, pieces %v are noted", burst, counted)
		}
		f.End()
		for range 8 {
			m.pass(clock, time.Second)
		}
	}
}

// Bytes are taken before each read. A piece that all comes back, because there was nothing to read,
// is held back by no limit. Any other counts once, with the connection's end at the latest.
func TestOnlyWhatPassesIsHeldBack(t *testing.T) {
	own := limit.Key{Scope: limit.ScopeConnection, Resource: limit.Download}
	for key, held := range map[limit.Key][]limit.Key{upDownload[0]: upDownload, own: nil} {
		l := scopePaced(t, key.Scope, key.Name, 1_000_000, 64<<10)
		l.Report = true
		m, _ := meterNode(t, held, l)
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		for range 4 { // the bucket of one connection is full at first
			f.Take(64 << 10)
		}
		f.End()
		begun, _ := m.Use(key)
		counted := func(when string, want uint64) {
			t.Helper()
			if u, _ := m.Use(key); u.WouldReject-begun.WouldReject != want {
				t.Errorf("%v, %s: %d pieces are counted; want %d", key, when, u.WouldReject-begun.WouldReject, want)
			}
		}
		for range 10 {
			f.Put(f.Take(64 << 10))
		}
		counted("all came back", 0)
		for range 3 {
			f.Put(f.Take(64<<10) - 1)
		}
		counted("a byte of each of three has passed", 3)
		f.Take(64 << 10)
		f.Put(f.Take(64 << 10))
		counted("one has passed, and one came back", 4)
		f.Take(64 << 10)
		f.End()
		counted("another has passed, and the connection has ended", 5)
		f.End()
		counted("it has ended twice", 5)
	}
}
