package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/netns"
)

// siege is a cluster on which limits of several scopes and resources are pressed while things
// happen to it: each by workers on all nodes, who want more than it allows.
type siege struct {
	mishaps
	late     *lateness
	crowds   []*crowd
	streams  []*stream
	changing *crowd // its rate changes
	inConfig *crowd // its rate is in the nodes' files, and changes with a reload
	snapshot string // the file of a snapshot with the limits as they were first
}

// crowd is an upstream, and workers who open one connection to it after another.
type crowd struct {
	host
	what  string
	who   *worker
	slots int          // how many may be open at once; 0: that is not limited
	steps []judge.Step // what the rate of requests allows; nil: it is not limited
	runs  []*load.Run
}

const (
	siegeWorkers = 5 // of a crowd, on each node
	siegeHold    = 100 * time.Millisecond
	siegeRetry   = 50 * time.Millisecond
)

// crowd starts one.
func (s *siege) crowd(t *testing.T, what string, who *worker, hold time.Duration) *crowd {
	t.Helper()
	return s.crowdAt(t, what, s.upstream(t), who, hold)
}

func (s *siege) crowdAt(t *testing.T, what string, up host, who *worker, hold time.Duration) *crowd {
	t.Helper()
	c := &crowd{host: up, what: what, who: who}
	for _, n := range s.nodes {
		c.runs = append(c.runs, load.Start(load.Plan{
			Proxies: []string{n.proxy}, Target: up.target, Workers: siegeWorkers, Hold: hold, Pause: siegeRetry,
			Timeout: 2 * time.Minute, Dial: n.reach(who), Fields: who.caller.Fields,
		}))
	}
	t.Cleanup(c.rest)
	s.crowds = append(s.crowds, c)
	return c
}

// reach is how a worker reaches the node's proxy.
func (n *node) reach(w *worker) load.Dial {
	if n.dialFrom != nil {
		return n.dialFrom(w.address)
	}
	return w.caller.Dial
}

func (c *crowd) rest() {
	for _, r := range c.runs {
		r.Stop()
	}
}

// passed is what the upstream has seen begin.
func (c *crowd) passed() (seen []judge.Passing) {
	for _, at := range c.Asked() {
		seen = append(seen, judge.Passing{At: at, N: 1})
	}
	return seen
}

// rate is what the crowd's limit allows now.
func (c *crowd) rate() judge.Step { return c.steps[len(c.steps)-1] }

// stream is bytes of a worker that pass all nodes in one direction, as many as may. A connection
// that breaks is made anew.
type stream struct {
	what  string
	up    bool
	host  host
	who   *worker
	steps []judge.Step

	stop context.CancelFunc
	ends sync.WaitGroup
	mu   sync.Mutex
	seen []judge.Passing // of a download: by the worker
}

// stream starts one, with a connection through each node.
func (s *siege) stream(t *testing.T, what string, up host, upload bool, who *worker, allowed judge.Step) {
	t.Helper()
	f := &stream{what: what, up: upload, host: up, who: who, steps: []judge.Step{allowed}}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	for _, n := range s.nodes {
		f.ends.Go(func() { f.keep(ctx, n) })
	}
	t.Cleanup(f.rest)
	s.streams = append(s.streams, f)
}

func (f *stream) rest() {
	f.stop()
	f.ends.Wait()
}

// keep has a connection through a node until ctx ends.
func (f *stream) keep(ctx context.Context, n *node) {
	for ctx.Err() == nil {
		if f.pass(ctx, n) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(siegeRetry):
			}
		}
	}
}

// pass is one connection's life.
func (f *stream) pass(ctx context.Context, n *node) error {
	caller := load.Caller{Dial: n.reach(f.who), Fields: f.who.caller.Fields}
	tunnel, err := caller.Connect(ctx, n.proxy, f.host.target)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = tunnel.Close() })()
	defer func() { _ = tunnel.Close() }()
	if !f.up {
		if _, err = fmt.Fprintf(tunnel, "give %d\n", endless); err == nil {
			_, err = io.Copy(f, tunnel.Conn)
		}
		return err
	}
	_, err = io.WriteString(tunnel, "take\n")
	for block := make([]byte, 16<<10); err == nil; {
		_, err = tunnel.Write(block)
	}
	return err
}

// Write notes bytes that have come.
func (f *stream) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, judge.Passing{At: time.Now(), N: float64(len(b))})
	return len(b), nil
}

// passed is what the receivers have seen.
func (f *stream) passed() (seen []judge.Passing) {
	if !f.up {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.seen)
	}
	for _, chunk := range f.host.Taken() {
		seen = append(seen, judge.Passing{At: chunk.At, N: float64(chunk.N)})
	}
	return seen
}

// rate is what the stream's limit allows now.
func (f *stream) rate() judge.Step { return f.steps[len(f.steps)-1] }

// pressed is a crowd with a rate, or a stream.
type pressed interface {
	passed() []judge.Passing
	rate() judge.Step
}

// relieved waits until all limits are used as they should again.
func (s *siege) relieved(t *testing.T) {
	t.Helper()
	pending := map[string]pressed{}
	for _, c := range s.crowds {
		if c.slots > 0 {
			c.awaitOpen(t, patience, c.slots)
		}
		if c.steps != nil {
			pending[c.what] = c
		}
	}
	for _, f := range s.streams {
		pending[f.what] = f
	}
	for i := 1; len(pending) > 0; i++ {
		from := time.Now()
		measure(rateWindow)
		to := time.Now()
		for what, p := range pending {
			used := judge.Between(p.passed(), from, to) / (p.rate().PerSecond * to.Sub(from).Seconds())
			t.Logf("%s: used %.3f", what, used)
			if used < rateUsed && i >= rateWindows {
				t.Errorf("%s: %.3f of the rate is used in the end; want %.2f", what, used, rateUsed)
			}
			if used >= rateUsed || i >= rateWindows {
				delete(pending, what)
			}
		}
	}
}

// judge ends the siege, and holds all limits to their caps, by the receivers' own clock.
func (s *siege) judge(t *testing.T) {
	t.Helper()
	late := s.late.most(t)
	blind, _ := s.late.pace.blind(s.late.begun)
	for _, f := range s.streams {
		f.rest()
		f.host.complete(t)
		weigh(t, f.what, f.steps, late, f.passed())
	}
	for _, c := range s.crowds {
		if c.slots > 0 { // before workers are given up, whose requests end before their upstream knows
			c.judge(t, s.late.begun, blind)
		}
		c.rest()
		if c.steps != nil {
			c.complete(t)
			weigh(t, c.what, c.steps, late, c.passed())
		}
	}
}

func weigh(t *testing.T, what string, steps []judge.Step, late time.Duration, seen []judge.Passing) {
	t.Helper()
	worst := judge.Weigh(steps, late, seen)
	t.Logf("%s: %v", what, worst)
	if worst.Over() {
		t.Errorf("%s: the receiver saw more than the limit allows: %v", what, worst)
	}
}

// judge holds the crowd to its slots at every instant.
func (c *crowd) judge(t *testing.T, begun time.Time, blind []judge.Interval) {
	t.Helper()
	events, dropped := c.Timeline()
	if dropped > 0 {
		t.Fatalf("%s: %d events did not fit the time line", c.what, dropped)
	}
	v := judge.Try(judge.Case{Scenario: c.what, Limit: c.slots, Begin: begun, Blind: blind}, events)
	acquit(t, v)
	t.Logf("%s: %d connections, %d at once at most", c.what, c.Stats().Accepted, v.Peak)
	if v.Peak < c.slots {
		t.Errorf("%s: at most %d were open at once; the limit is %d", c.what, v.Peak, c.slots)
	}
}

// set changes the rate that changes, and leaves it for a while.
func (s *siege) set(t *testing.T, rate, burst float64) {
	t.Helper()
	s.changing.steps = changed(s.changing.steps, rate, burst, func() { s.put(t, "user", "ada", rateBody(rate, burst)) })
	measure(700 * time.Millisecond)
}

func (s *siege) raise(t *testing.T) { s.set(t, 40, 10) }

func (s *siege) lower(t *testing.T) { s.set(t, 10, 2) }

// restore brings back all limits, which are as they were when the snapshot was saved.
func (s *siege) restore(t *testing.T) {
	s.changing.steps = changed(s.changing.steps, 20, 5, func() {
		if stdout, stderr, code := s.nodes[2].weir(t, "snapshot", "restore", s.snapshot); code != 0 {
			t.Fatalf("restore: %d %s%s", code, stdout, stderr)
		}
		s.awaitSame(t, scopedPath("user", "ada"))
	})
}

// The client whose rate is in the nodes' files, what it is there, and what a reload makes of it.
const (
	siegeClient   = "127.5.20.2"
	siegeRate     = 30
	siegeReloaded = 15
)

func siegeConfig(rate int) string {
	return fmt.Sprintf("  client %q {\n    requests {\n      rate  = \"%d/s\"\n      burst = 5\n    }\n    queue {\n      timeout = \"1m\"\n      size    = 100\n    }\n  }\n", siegeClient, rate)
}

// reload reads another rate, then the first again.
func (s *siege) reload(t *testing.T) {
	n := s.nodes[1]
	for _, rate := range []int{siegeReloaded, siegeRate} {
		n.limits = siegeConfig(rate)
		n.writeConfig(t)
		s.inConfig.steps = changed(s.inConfig.steps, float64(rate), 5, func() {
			n.signal(t, syscall.SIGHUP)
			for _, each := range s.nodes {
				eventually(t, 5*time.Second, "node "+each.name+" sees the reloaded rate", func() error {
					return each.http.rateIs(scopedPath("client", siegeClient), fmt.Sprintf("%d/s", rate))
				})
			}
		})
		measure(700 * time.Millisecond)
	}
}

// pacedBody is a limit on both directions' bytes.
func pacedBody(s judge.Step) string {
	return fmt.Sprintf(`{"bandwidth":{"upload":"%[1]gKiB","download":"%[1]gKiB","burst":"%[2]gKiB"}}`, s.PerSecond/1024, s.Burst/1024)
}

// siegeBandwidth is what a worker's streams may pass in each direction: little, for a machine that
// is busy with all else.
var siegeBandwidth = judge.Step{PerSecond: 512 << 10, Burst: 64 << 10}

// streamsOf starts one in each direction.
func (s *siege) streamsOf(t *testing.T, what string, up host, who *worker) {
	t.Helper()
	s.stream(t, what+", download", up, false, who, siegeBandwidth)
	s.stream(t, what+", upload", up, true, who, siegeBandwidth)
}

// events are what happens to nodes and limits.
func (s *siege) events() []event {
	return []event{
		{"kill -9 of a follower, and its return", s.killFollower},
		{"kill -9 of the leader, and its return", s.killLeader},
		{"SIGTERM and a restart", s.restart},
		{"a reload", s.reload},
		{"raised", s.raise},
		{"lowered", s.lower},
		{"restored from a snapshot", s.restore},
	}
}

// save keeps the limits as they are.
func (s *siege) save(t *testing.T) {
	t.Helper()
	s.snapshot = filepath.Join(t.TempDir(), "weir.snap")
	if _, stderr, code := s.nodes[0].weir(t, "snapshot", "save", s.snapshot); code != 0 {
		t.Fatalf("save: %d %s", code, stderr)
	}
}

// TestScopesUnderFaults: whatever becomes of nodes and limits, no limit of a client or a user is
// exceeded, of connections, requests or bytes, and each is used again afterwards.
func TestScopesUnderFaults(t *testing.T) {
	t.Parallel()
	file := newUsersFile(t)
	for _, user := range []string{"free", "ada", "nightly"} {
		file.add(t, user, "secret")
	}
	s := &siege{mishaps: mishaps{rng: seeded(t)}}
	s.cluster = startCluster(t, shape{ttl: 2 * time.Second, limits: siegeConfig(siegeRate), prepare: func(n *node) {
		n.more = fmt.Sprintf("proxy {\n  users_file = %q\n}\n", file.path)
	}})
	free, of := as("free", "secret"), func(address string) *worker { return from(address).as("free", "secret") }
	s.late = startLateness(t, load.Plan{Proxies: s.proxies(), Target: s.upstream(t).target, Workers: 9, Plain: true, Fields: free.caller.Fields})

	s.put(t, "client", "127.5.20.1", queued(4, time.Minute, 100))
	s.put(t, "user", "nightly", queued(3, time.Minute, 100))
	s.put(t, "user", "ada", rateBody(20, 5))
	s.put(t, "client", "127.5.20.3", pacedBody(siegeBandwidth))
	paced := s.upstream(t)
	s.put(t, "host", paced.name, pacedBody(siegeBandwidth))
	s.save(t)

	s.crowd(t, "4 connections of a client", of("127.5.20.1"), siegeHold).slots = 4
	s.crowd(t, "3 connections of a user", as("nightly", "secret"), siegeHold).slots = 3
	s.inConfig = s.crowd(t, "requests of a client", of(siegeClient), 0)
	s.inConfig.steps = []judge.Step{{PerSecond: siegeRate, Burst: 5}}
	s.changing = s.crowd(t, "requests of a user", as("ada", "secret"), 0)
	s.changing.steps = []judge.Step{{PerSecond: 20, Burst: 5}}
	s.streamsOf(t, "bytes of a client", s.upstream(t), of("127.5.20.3"))
	s.streamsOf(t, "bytes of a host", paced, free)
	measure(time.Second)
	s.pass(t, s.events())
	s.relieved(t)
	s.judge(t)
}

// TestTotalUnderFaults: likewise of a limit of all workers together. What it lets through is seen
// late by what the machine is, which workers of another cluster measure: its own would wait for it.
func TestTotalUnderFaults(t *testing.T) {
	t.Parallel()
	s := &siege{mishaps: mishaps{startCluster(t, shape{ttl: 2 * time.Second}), seeded(t)}}
	s.late = startCluster(t, shape{names: []string{"a"}}).latenessBy(t, 6)
	const body = `{"requests":{"rate":"40/s","burst":10},"bandwidth":{"upload":"512KiB","download":"512KiB","burst":"64KiB"},"queue":{"timeout":"1m","size":100}}`
	s.put(t, "total", "", body)
	up := s.upstream(t)
	s.crowdAt(t, "requests of all", up, from("127.5.21.1"), 0).steps = []judge.Step{{PerSecond: 40, Burst: 10}}
	s.streamsOf(t, "bytes of all", up, from("127.5.21.2"))
	measure(time.Second)
	s.pass(t, []event{
		{"kill -9 of a follower, and its return", s.killFollower},
		{"kill -9 of the leader, and its return", s.killLeader},
		{"SIGTERM and a restart", s.restart},
	})
	s.relieved(t)
	s.judge(t)
}

// TestPartitionOfScopes: likewise where a follower is cut off until others have its part, and then
// the leader, and after each comes back.
func TestPartitionOfScopes(t *testing.T) {
	t.Parallel()
	l := startLab(t, labPlan{ttl: 4 * time.Second})
	s := &siege{mishaps: mishaps{l.cluster, seeded(t)}}
	s.late = startLateness(t, load.Plan{
		Proxies: names(l.nodes), Target: l.upstream(t).target, Workers: 9, Plain: true, Dial: l.dialByName,
	})
	s.put(t, "client", "127.5.20.1", queued(4, time.Minute, 100))
	s.put(t, "client", "127.5.20.2", rateBody(siegeRate, 5))
	s.put(t, "client", "127.5.20.3", pacedBody(siegeBandwidth))
	counted, paced := l.upstream(t), l.upstream(t)
	s.put(t, "host", counted.name, rateBody(20, 10))
	s.put(t, "host", paced.name, pacedBody(siegeBandwidth))

	s.crowdAt(t, "4 connections of a client", l.upstream(t), from("127.5.20.1"), siegeHold).slots = 4
	s.crowdAt(t, "requests of a client", l.upstream(t), from("127.5.20.2"), 0).steps = []judge.Step{{PerSecond: siegeRate, Burst: 5}}
	s.crowdAt(t, "requests of a host", counted, from("127.5.20.4"), 0).steps = []judge.Step{{PerSecond: 20, Burst: 10}}
	s.streamsOf(t, "bytes of a client", l.upstream(t), from("127.5.20.3"))
	s.streamsOf(t, "bytes of a host", paced, from("127.5.20.5"))
	measure(time.Second)
	s.pass(t, []event{
		{"a follower cut off", func(t *testing.T) { s.cutOff(t, l, aFollower) }},
		{"the leader cut off", func(t *testing.T) { s.cutOff(t, l, theLeader) }},
	})
	s.relieved(t)
	s.judge(t)
}

// cutOff isolates a node until its lease has run out and others have its part, and heals.
func (s *siege) cutOff(t *testing.T, l *lab, choose func(*node, []*node) []*node) {
	t.Helper()
	leader, followers := l.leader(t)
	victims := choose(leader, followers)
	var others []string
	for _, n := range l.nodes {
		if !slices.Contains(victims, n) {
			others = append(others, n.name)
		}
	}
	l.set(t, netns.Cut(names(victims), others)...)
	for _, n := range victims {
		eventually(t, l.ttl+patience, "node "+n.name+" notices", func() error {
			if n.ready() == nil {
				return errors.New("it is ready")
			}
			return nil
		})
	}
	measure(l.ttl + reclaimSlack)
	l.set(t)
	for _, n := range l.nodes {
		n.awaitReady(t, patience)
	}
	measure(time.Second)
}
