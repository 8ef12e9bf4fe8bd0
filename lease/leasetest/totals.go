package leasetest

import (
	"fmt"
	"strings"
	"time"
)

// GCPercent is the garbage collector's target for who runs many worlds, of which each takes a few
// megabytes for some milliseconds.
const GCPercent = 3000

// Totals adds up what runs came to.
type Totals struct {
	Seeds       int
	Time        time.Duration // simulated
	NodeTime    time.Duration // the sum of the nodes'
	Steps       int
	Entries     int
	Connections int
	Tokens      int
	Bytes       int
	Watched     int
	Faults      [kinds]int
}

// Add counts one run.
func (t *Totals) Add(o Outcome) {
	t.Seeds++
	t.Time += o.At
	t.NodeTime += o.NodeTime
	t.Steps += o.Steps
	t.Entries += o.Entries
	t.Connections += o.Connections
	t.Tokens += o.Tokens
	t.Bytes += o.Bytes
	t.Watched += o.Watched
	for k, n := range o.Faults {
		t.Faults[k] += n
	}
}

// AllFaults is their number.
func (t *Totals) AllFaults() (n int) {
	for _, k := range t.Faults {
		n += k
	}
	return n
}

// Kinds lists the faults of each kind.
func (t *Totals) Kinds() string {
	var b strings.Builder
	for k, n := range t.Faults {
		if k > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%v %d", Kind(k), n)
	}
	return b.String()
}

// Line is the totals in one line, for a run that has taken so long.
func (t *Totals) Line(took time.Duration) string {
	return fmt.Sprintf("%d seeds, %.0f/s, %.1f node-hours simulated, %d connections, %d faults: %s",
		t.Seeds, float64(t.Seeds)/took.Seconds(), t.NodeTime.Hours(), t.Connections, t.AllFaults(), t.Kinds())
}

// Summary is a page of them.
func (t *Totals) Summary(took time.Duration) string {
	var b strings.Builder
	minutes := took.Minutes()
	fmt.Fprintf(&b, "%-12s %12s %14s\n", "", "in all", "a minute")
	row := func(name string, n float64, digits int) {
		fmt.Fprintf(&b, "%-12s %12.*f %14.*f\n", name, digits, n, digits, n/minutes)
	}
	row("seeds", float64(t.Seeds), 0)
	row("hours", t.Time.Hours(), 1)
	row("node-hours", t.NodeTime.Hours(), 1)
	row("node-years", t.NodeTime.Hours()/24/365, 4)
	row("connections", float64(t.Connections), 0)
	row("tokens", float64(t.Tokens), 0)
	row("bytes", float64(t.Bytes), 0)
	row("looks at use", float64(t.Watched), 0)
	row("log entries", float64(t.Entries), 0)
	row("events", float64(t.Steps), 0)
	row("faults", float64(t.AllFaults()), 0)
	for k, n := range t.Faults {
		row("  "+Kind(k).String(), float64(n), 0)
	}
	return b.String()
}
