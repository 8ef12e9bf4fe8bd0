package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/load"
)

const (
	pacedRate  = 2 << 20   // bytes a second, in each direction
	pacedBurst = 512 << 10 // 128 units: of six flows each has 21 or 22, which are 5 % apart
	pacedFlows = 0.10      // how far flows of one key may lie apart
	alone      = 400 << 10 // bytes a second of one connection
	endless    = 1 << 30   // bytes: more than a test lasts
)

// way is how bytes pass a proxy.
type way struct {
	name      string
	up, plain bool
}

var ways = []way{{"tunnel, down", false, false}, {"tunnel, up", true, false}, {"body, down", false, true}, {"body, up", true, true}}

// flow is a connection with as many bytes to send as may pass.
type flow struct {
	node *node
	conn net.Conn

	mu   sync.Mutex
	seen []judge.Passing // of a download: by the client
}

// Write notes bytes that have come.
func (f *flow) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, judge.Passing{At: time.Now(), N: float64(len(b))})
	return len(b), nil
}

func (f *flow) passed() []judge.Passing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// paced is an upstream under a limit on bandwidth, and its flows.
type paced struct {
	host
	way
	what  string
	flows []*flow
	ends  sync.WaitGroup
}

// start opens a flow through the node. It ends with rest.
func (p *paced) start(t *testing.T, n *node) {
	t.Helper()
	f := &flow{node: n}
	p.flows = append(p.flows, f)
	if !p.plain {
		f.conn = n.open(t, p.target).Conn
	} else {
		var err error
		if f.conn, err = net.DialTimeout("tcp", n.proxy, wireWithin); err != nil {
			t.Fatal(err)
		}
	}
	p.ends.Go(func() { _ = f.run(p) }) // its error is the end
}

// run asks for bytes, or sends them, until the connection is closed.
func (f *flow) run(p *paced) error {
	if _, err := io.WriteString(f.conn, p.request()); err != nil {
		return err
	}
	switch {
	case p.up:
		return f.send()
	case p.plain:
		resp, err := http.ReadResponse(bufio.NewReader(f.conn), nil)
		if err == nil {
			_, err = io.Copy(f, resp.Body)
		}
		return err
	}
	_, err := io.Copy(f, f.conn)
	return err
}

// request is what a flow begins with.
func (p *paced) request() string {
	switch {
	case p.up && p.plain:
		return fmt.Sprintf("POST http://%[1]s/take HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: %[2]d\r\n\r\n", p.target, endless)
	case p.up:
		return "take\n"
	case p.plain:
		return fmt.Sprintf("GET http://%[1]s/give?bytes=%[2]d HTTP/1.1\r\nHost: %[1]s\r\n\r\n", p.target, endless)
	}
	return fmt.Sprintf("give %d\n", endless)
}

func (f *flow) send() error {
	var block [32 << 10]byte
	for {
		if _, err := f.conn.Write(block[:]); err != nil {
			return err
		}
	}
}

// rest ends all flows.
func (p *paced) rest() {
	for _, f := range p.flows {
		_ = f.conn.Close()
	}
	p.ends.Wait()
}

// byFlow is what each flow's receiver has seen.
func (p *paced) byFlow() (flows [][]judge.Passing) {
	if !p.up {
		for _, f := range p.flows {
			flows = append(flows, f.passed())
		}
		return flows
	}
	at := map[uint64]int{}
	for _, chunk := range p.Taken() {
		i, known := at[chunk.Conn]
		if !known {
			i = len(flows)
			at[chunk.Conn] = i
			flows = append(flows, nil)
		}
		flows[i] = append(flows[i], judge.Passing{At: chunk.At, N: float64(chunk.N)})
	}
	return flows
}

// seen is what all receivers have seen, in order.
func (p *paced) seen() []judge.Passing {
	all := slices.Concat(p.byFlow()...)
	slices.SortStableFunc(all, func(a, b judge.Passing) int { return a.At.Compare(b.At) })
	return all
}

// apart is by how much more the busiest flow got than the quietest, from one moment to another.
func (p *paced) apart(from, to time.Time) float64 {
	var least, most float64
	for i, f := range p.byFlow() {
		n := judge.Between(f, from, to)
		if most = max(most, n); i == 0 || n < least {
			least = n
		}
	}
	return most/max(least, 1) - 1
}

// TestBandwidth: in no window of time more bytes than rate × t + burst, nearly all of it used, and
// shared by the flows alike: tunnels and bodies, up and down, through one node and through all.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	late := c.latenessBy(t, 16*len(c.nodes))
	var all []*paced
	for _, where := range []struct {
		what  string
		nodes []*node
	}{
		{"through all nodes", slices.Concat(c.nodes, c.nodes)},
		{"through one node", []*node{c.nodes[1], c.nodes[1], c.nodes[1]}},
		{"mostly through one node", []*node{c.nodes[0], c.nodes[1], c.nodes[1], c.nodes[1], c.nodes[1], c.nodes[2]}},
	} {
		for _, w := range ways {
			p := &paced{host: c.upstream(t), way: w, what: w.name + ", " + where.what}
			c.put(t, "host", p.host.name, fmt.Sprintf(`{"bandwidth":{"upload":"%[1]dKiB","download":"%[1]dKiB","burst":"%dKiB"}}`, pacedRate>>10, pacedBurst>>10))
			t.Cleanup(p.rest)
			for _, n := range where.nodes {
				p.start(t, n)
			}
			all = append(all, p)
		}
	}
	measure(time.Second)
	reachBandwidth(t, slices.Clone(all))
	most := late.most(t)
	for _, p := range all {
		p.rest()
		p.complete(t)
		worst := judge.Weigh([]judge.Step{{PerSecond: pacedRate, Burst: pacedBurst}}, most, p.seen())
		t.Logf("%s: %v", p.what, worst)
		if worst.Over() {
			t.Errorf("%s: the receiver saw more than the limit allows: %v", p.what, worst)
		}
	}
}

// reachBandwidth measures windows until all is used as it should, and shared.
func reachBandwidth(t *testing.T, pending []*paced) {
	t.Helper()
	for i := 1; len(pending) > 0; i++ {
		from := time.Now()
		measure(2 * time.Second)
		to := time.Now()
		pending = slices.DeleteFunc(pending, func(p *paced) bool {
			used, apart := judge.Between(p.seen(), from, to)/(pacedRate*to.Sub(from).Seconds()), p.apart(from, to)
			t.Logf("%s: used %.3f, flows %.1f %% apart", p.what, used, 100*apart)
			ok := used >= rateUsed && apart <= pacedFlows
			if !ok && i >= rateWindows {
				t.Errorf("%s: %.3f of the bandwidth is used, and flows are %.1f %% apart; want %.2f, and %.0f %%", p.what, used, 100*apart, rateUsed, 100*pacedFlows)
			}
			return ok || i >= rateWindows
		})
	}
}

// TestBandwidthOfConnections: a limit of scope connection holds for each connection alone, without
// a count that they share, and a change of it for those that are open.
func TestBandwidthOfConnections(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	const burst = 64 << 10
	c.put(t, "connection", "", fmt.Sprintf(`{"bandwidth":{"upload":"%[1]dKiB","download":"%[1]dKiB","burst":"%dKiB"}}`, alone>>10, burst>>10))
	late := c.latenessBy(t, 16) // whose few bytes are far below the limit; all flows begin at once
	var all []*paced
	for _, w := range ways {
		p := &paced{host: c.upstream(t), way: w, what: w.name}
		t.Cleanup(p.rest)
		p.start(t, n)
		p.start(t, n)
		all = append(all, p)
	}
	measure(500 * time.Millisecond)
	for i := 1; ; i++ {
		from := time.Now()
		measure(time.Second)
		least := leastUsed(t, all, alone, from, time.Now())
		if least >= rateUsed {
			break
		}
		if i == 2*rateWindows {
			t.Errorf("%.3f of a connection's bandwidth is used; want %.2f", least, rateUsed)
			break
		}
	}
	const less = alone / 4
	changing := time.Now()
	c.put(t, "connection", "", fmt.Sprintf(`{"bandwidth":{"upload":"%[1]dKiB","download":"%[1]dKiB","burst":"%dKiB"}}`, less>>10, burst>>10))
	changed := time.Now()
	measure(time.Second)
	most := late.most(t)
	steps := []judge.Step{{PerSecond: alone, Burst: burst}, {From: changing, PerSecond: alone, Burst: burst}, {From: changed, PerSecond: less, Burst: burst}}
	for _, p := range all {
		p.rest()
		p.complete(t)
		for i, f := range p.byFlow() {
			worst := judge.Weigh(steps, most, f)
			t.Logf("%s, %d: %v", p.what, i+1, worst)
			if worst.Over() {
				t.Errorf("%s, %d: the receiver saw more than the limit allows: %v", p.what, i+1, worst)
			}
		}
	}
}

// leastUsed is the least share that a flow has of what each may have.
func leastUsed(t *testing.T, all []*paced, rate float64, from, to time.Time) float64 {
	t.Helper()
	least := 1.0
	for _, p := range all {
		for i, f := range p.byFlow() {
			used := judge.Between(f, from, to) / (rate * to.Sub(from).Seconds())
			t.Logf("%s, %d: used %.3f", p.what, i+1, used)
			least = min(least, used)
		}
	}
	return least
}

// TestBandwidthLosesNothing: what is paced arrives whole, and takes as long as it must.
func TestBandwidthLosesNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	const size, burst, rate = 400 << 10, 64 << 10, 300 << 10
	w := from("127.5.40.1")
	c.put(t, "client", w.address, fmt.Sprintf(`{"bandwidth":{"upload":"%[1]dKiB","download":"%[1]dKiB","burst":"%dKiB"}}`, rate>>10, burst>>10))
	text := make([]byte, size)
	for i := range text {
		text[i] = 'a' + byte(i%23)
	}
	begun := time.Now()
	tunnel := w.open(t, n, up.target)
	plain, err := w.caller.Dial(t.Context(), n.proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	var sends sync.WaitGroup
	sends.Go(func() { // up and down at once, twice: the client's two flows share both
		if _, err := fmt.Fprintf(tunnel, "echo\n%s", text[:size/2]); err != nil {
			t.Errorf("tunnel: %v", err)
		}
	})
	sends.Go(func() {
		if _, err := fmt.Fprintf(plain, "POST http://%s/echo HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", up.target, up.target, size/2, text[size/2:]); err != nil {
			t.Errorf("body: %v", err)
		}
	})
	first, second := make([]byte, size/2), make([]byte, size/2)
	if _, err := io.ReadFull(tunnel.Conn, first); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(plain), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, second); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	sends.Wait()
	if string(first)+string(second) != string(text) {
		t.Error("what has come back is not what was sent")
	}
	least := time.Duration(float64(size-burst) / rate * float64(time.Second))
	t.Logf("%d bytes each way in %v; at least %v", size, took.Round(time.Millisecond), least.Round(time.Millisecond))
	if took < least {
		t.Errorf("%d bytes have come in %v; %v at least are due", size, took, least)
	}
	if slow, err := load.Slowness(); err == nil && took > least+time.Duration(slow*float64(2*time.Second)) {
		t.Errorf("they took %v; want hardly more than %v", took, least)
	}
}
