package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/load"
)

// mishaps are what happens to a cluster's nodes.
type mishaps struct {
	*cluster
	rng *rand.Rand
}

// underFaults is a cluster whose rates are pressed while things happen to it.
type underFaults struct {
	mishaps
	changes  changes
	rates    []*rated // all of them
	reloaded *rated   // its limit is in the nodes' files
	changing *rated   // its limit changes by the API
	phases   []phase
	snapshot string // the file of a snapshot with the limits as they were first
}

// tokens are a rate's.
type tokens struct{ perSecond, burst float64 }

// changes are those of one limit: what it is at first, and after each of them.
type changes struct {
	first           tokens
	workers         int // through each node
	raised, lowered []tokens
}

// phase is a time in which a limit stayed as it was.
type phase struct {
	step judge.Step
	to   time.Time
}

// The rate that is in the nodes' files, and that a reload changes.
const (
	configRate, configBurst = 50, 10
	reloadedRate            = 20
)

func configLimits(host string, rate int) string {
	return fmt.Sprintf("  host %q {\n    requests {\n      rate  = \"%d/s\"\n      burst = %d\n    }\n    queue {\n      timeout = \"1m\"\n      size    = 100\n    }\n  }\n",
		host, rate, configBurst)
}

// TestRatesUnderFaults: whatever becomes of nodes and limits, nothing is ever refilled, and the
// rate is used again afterwards. WEIR_E2E_ROUNDS does all of it so often, in an order of its own
// each time.
func TestRatesUnderFaults(t *testing.T) {
	t.Parallel()
	u := startUnderFaults(t)
	u.rates = append(u.rates, u.rated(t, 0.5, 1, 2), u.rated(t, 5, 1, 2), u.rated(t, 200, 20, 6))
	u.run(t, changes{
		first: tokens{20, 5}, workers: 4,
		raised:  []tokens{{40, 5}, {40, 10}},
		lowered: []tokens{{40, 2}, {10, 2}, {20, 5}},
	})
}

// TestFullRateUnderFaults: the same at as high a rate as the machine, alone, has the time for.
func TestFullRateUnderFaults(t *testing.T) {
	u := startUnderFaults(t)
	full := u.affordable(t)
	u.run(t, changes{
		first: tokens{full, full / 10}, workers: 16,
		raised:  []tokens{{full / 4, full / 50}, {full / 2, full / 50}, {full, full / 10}},
		lowered: []tokens{{full, full / 50}, {full / 4, full / 50}, {full, full / 10}},
	})
}

// startUnderFaults starts a cluster with one rate, which is in the nodes' files.
func startUnderFaults(t *testing.T) *underFaults {
	const inConfig = "127.77.0.1" // what the cluster gives out first
	c := startCluster(t, shape{ttl: 2 * time.Second, limits: configLimits(inConfig, configRate)})
	if first := c.address(); first != inConfig {
		t.Fatalf("the first address is %s", first)
	}
	h, err := listen(inConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	r := &rated{host: h, perSecond: configRate, burst: configBurst, workers: 4, runs: map[*node]*load.Run{}}
	r.steps = []judge.Step{{PerSecond: configRate, Burst: configBurst}}
	t.Cleanup(r.rest)
	return &underFaults{mishaps: mishaps{c, seeded(t)}, reloaded: r, rates: []*rated{r}}
}

// run lets everything happen, and judges.
func (u *underFaults) run(t *testing.T, by changes) {
	u.changes = by
	u.changing = u.rated(t, by.first.perSecond, by.first.burst, by.workers)
	u.rates = append(u.rates, u.changing)
	u.snapshot = filepath.Join(t.TempDir(), "weir.snap")
	if _, stderr, code := u.nodes[0].weir(t, "snapshot", "save", u.snapshot); code != 0 {
		t.Fatalf("save: %d %s", code, stderr)
	}
	late := u.lateness(t)
	u.press()
	measure(time.Second)
	u.pass(t, []event{
		{"kill -9 of a follower, and its return", u.killFollower},
		{"kill -9 of the leader, and its return", u.killLeader},
		{"SIGTERM and a restart", u.restart},
		{"a reload", u.reload},
		{"raised", u.raise},
		{"lowered", u.lower},
		{"restored from a snapshot", u.restore},
	})
	u.press() // through what has come back
	measure(time.Second)
	reach(t, "after all", false, u.rates...)
	most := late.most(t)
	for _, r := range u.rates {
		r.rest()
		r.judge(t, most)
	}
	u.judgePhases(t, most)
}

// event is something that happens to a cluster.
type event struct {
	what string
	do   func(*testing.T)
}

// pass lets all of it happen: in the given order first, and in an order of its own in each further
// round.
func (m *mishaps) pass(t *testing.T, events []event) {
	t.Helper()
	rounds := 1
	if s := os.Getenv(roundsVariable); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range rounds {
		if i > 0 {
			m.rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		}
		for _, e := range events {
			begun := time.Now()
			e.do(t)
			measure(500 * time.Millisecond)
			t.Logf("%s: %v", e.what, time.Since(begun).Round(10*time.Millisecond))
		}
	}
}

// judgePhases holds the limit that changes to each of its bursts, and not only to the largest.
func (u *underFaults) judgePhases(t *testing.T, late time.Duration) {
	t.Helper()
	all := u.changing.seen()
	for _, p := range u.phases {
		var seen []judge.Passing
		for _, one := range all {
			if one.At.After(p.step.From.Add(late)) && one.At.Before(p.to) {
				seen = append(seen, one)
			}
		}
		if worst := judge.Weigh([]judge.Step{p.step}, late, seen); worst.Over() {
			t.Errorf("under %g/s, burst %g: %v", p.step.PerSecond, p.step.Burst, worst)
		}
	}
}

func (u *underFaults) press() {
	for _, r := range u.rates {
		r.press(u.cluster, u.nodes...)
	}
}

func (m *mishaps) killFollower(t *testing.T) {
	_, followers := m.leader(t)
	m.killAndReturn(t, followers[m.rng.IntN(len(followers))])
}

func (m *mishaps) killLeader(t *testing.T) {
	leader, _ := m.leader(t)
	m.killAndReturn(t, leader)
}

// killAndReturn leaves the node dead until the others have its part.
func (m *mishaps) killAndReturn(t *testing.T, n *node) {
	t.Helper()
	n.kill(t)
	measure(m.shape.ttl + reclaimSlack)
	n.start(t)
	n.awaitReady(t, 15*time.Second)
}

// restart stops a node in good order, so that it gives its levels back, and starts it at once; then
// it kills it, and starts it before the others have its part.
func (m *mishaps) restart(t *testing.T) {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	n.terminate(t)
	n.start(t)
	n.awaitReady(t, 15*time.Second)
	n.kill(t)
	n.start(t)
	n.awaitReady(t, 15*time.Second)
}

// reload reads the same again, then another rate, then the first.
func (u *underFaults) reload(t *testing.T) {
	r := u.reloaded
	n := u.nodes[1]
	for _, rate := range []int{configRate, reloadedRate, configRate} {
		n.limits = configLimits(r.name, rate)
		n.writeConfig(t)
		u.change(t, r, float64(rate), configBurst, func() {
			n.signal(t, syscall.SIGHUP)
			for _, each := range u.nodes {
				eventually(t, 5*time.Second, "node "+each.name+" sees the reloaded rate", func() error {
					return each.http.rateIs(limitPath(r.name), fmt.Sprintf("%d/s", rate))
				})
			}
		})
	}
}

func (u *underFaults) raise(t *testing.T) { u.set(t, u.changes.raised) }

func (u *underFaults) lower(t *testing.T) { u.set(t, u.changes.lowered) }

// set changes the limit so often, and leaves it for a while each time.
func (u *underFaults) set(t *testing.T, to []tokens) {
	t.Helper()
	for _, next := range to {
		u.change(t, u.changing, next.perSecond, next.burst, func() {
			u.put(t, "host", u.changing.name, rateBody(next.perSecond, next.burst))
		})
		measure(700 * time.Millisecond)
		u.phases = append(u.phases, phase{u.changing.steps[len(u.changing.steps)-1], time.Now()})
	}
}

// change notes that a rate holds: the larger of the two until all nodes know of it.
func (u *underFaults) change(t *testing.T, r *rated, rate, burst float64, do func()) {
	t.Helper()
	r.steps = changed(r.steps, rate, burst, do)
	r.perSecond, r.burst = rate, burst
}

// changed adds a change to the steps of a rate.
func changed(steps []judge.Step, rate, burst float64, do func()) []judge.Step {
	was := steps[len(steps)-1]
	steps = append(steps, judge.Step{From: time.Now(), PerSecond: max(was.PerSecond, rate), Burst: max(was.Burst, burst)})
	do()
	return append(steps, judge.Step{From: time.Now(), PerSecond: rate, Burst: burst})
}

// restore brings back all limits, which are as they were when the snapshot was saved.
func (u *underFaults) restore(t *testing.T) {
	for range 2 {
		u.change(t, u.changing, u.changes.first.perSecond, u.changes.first.burst, func() {
			if stdout, stderr, code := u.nodes[2].weir(t, "snapshot", "restore", u.snapshot); code != 0 {
				t.Fatalf("restore: %d %s%s", code, stdout, stderr)
			}
			for _, r := range u.rates {
				u.awaitSame(t, limitPath(r.name))
			}
		})
		measure(300 * time.Millisecond)
	}
}

// rateIs checks the rate of requests of the limit at a path, as the node sees it.
func (c *client) rateIs(path, want string) error {
	var l struct {
		Requests struct {
			Rate string `json:"rate"`
		} `json:"requests"`
	}
	a, err := c.call(http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if a.status == http.StatusOK {
		err = c.read(path, &l)
	}
	if err == nil && l.Requests.Rate != want {
		err = fmt.Errorf("the rate is %q", l.Requests.Rate)
	}
	return err
}
