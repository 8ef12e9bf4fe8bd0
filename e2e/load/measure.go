package load

import (
	"fmt"
	"time"

	"github.com/weirproxy/weir/e2e/upstream"
)

// Goal is what a measurement is held to.
type Goal struct {
	Limit    int           // connections that the upstream should see, and never exceed
	Use      float64       // least time-weighted mean of the open connections, as a share of Limit
	Jain     float64       // least fairness between the proxies
	Window   time.Duration // measured at least
	Windows  int           // measured at most so many windows, while Use or Jain is not reached
	WarmUp   time.Duration // the most that may pass until Limit connections are open
	LetDrain time.Duration // how long to wait, at the end, until none is open; 0: don't
}

// Report is what a measurement found. Use, Jain, Seconds and OK are of the time after the warm-up,
// the rest of all.
type Report struct {
	Use     float64  `json:"use"`
	Jain    float64  `json:"jain"`
	Seconds float64  `json:"seconds"`
	OK      []uint64 `json:"ok"` // connections, by proxy

	Peak     int               `json:"peak"`
	Left     int               `json:"left"` // open after the load has stopped and LetDrain has passed
	Refused  uint64            `json:"refused"`
	Failed   uint64            `json:"failed"`
	Cut      uint64            `json:"cut"`
	Reasons  map[string]uint64 `json:"reasons"`
	LastFail string            `json:"last_fail,omitempty"`
	WaitP50  time.Duration     `json:"wait_p50_ns"`
	WaitP99  time.Duration     `json:"wait_p99_ns"`
	Slowness float64           `json:"slowness"` // of the machine: the plan's times were as many times longer
}

func (r Report) String() string {
	return fmt.Sprintf("peak %d, use %.3f, Jain %.3f over %.1fs, per proxy %d, refused %d, wait p50 %v p99 %v, slowness %.1f", r.Peak, r.Use, r.Jain,
		r.Seconds, r.OK, r.Refused, r.WaitP50.Round(100*time.Microsecond), r.WaitP99.Round(100*time.Microsecond), r.Slowness)
}

// Measure runs a plan against up, whose connections are all the plan's, and reports. It stops as
// soon as the goal's ratios are reached after a whole window: a machine that is busy with other
// things gets more time, a peak above the limit no second chance.
func Measure(up *upstream.Server, plan Plan, goal Goal) Report {
	run := Start(plan)
	warm := within(goal.WarmUp, func() bool { return up.Stats().Peak >= goal.Limit })
	peak := up.Reset().Peak // of all until then: a peak between two looks would be lost
	base := run.Tallies()
	var r Report
	for i := 0; warm && i < goal.Windows && (r.Use < goal.Use || r.Jain < goal.Jain); i++ {
		<-time.After(goal.Window)
		r = ratios(up.Stats(), base, run.Tallies(), goal.Limit)
	}
	final := run.Stop()
	within(goal.LetDrain, func() bool { return up.Stats().Open == 0 })
	s, sum := up.Stats(), Sum(final)
	r.Peak, r.Left = max(peak, s.Peak), s.Open
	r.Refused, r.Failed, r.Cut, r.Reasons = sum.Refused, sum.Failed, sum.Cut, sum.Reasons
	if sum.LastFail != nil {
		r.LastFail = sum.LastFail.Error()
	}
	r.WaitP50, r.WaitP99 = Percentile(sum.Waits, 50), Percentile(sum.Waits, 99)
	return r
}

// ratios compares a period's counts with what they were at its start.
func ratios(s upstream.Stats, base, now []Tally, limit int) Report {
	r := Report{Use: s.Mean / float64(limit), Seconds: s.Over.Seconds(), OK: make([]uint64, len(now))}
	shares := make([]float64, len(now))
	for i := range now {
		r.OK[i] = now[i].OK - base[i].OK
		shares[i] = float64(r.OK[i])
	}
	r.Jain = Jain(shares)
	return r
}

// within waits until check is true, for at most d, and tells whether it became so.
func within(d time.Duration, check func() bool) bool {
	deadline := time.Now().Add(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}
