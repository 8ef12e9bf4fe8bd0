package leasetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Plan is one run of the world: who is there, what they do, and what goes wrong when. The same plan
// gives the same run.
type Plan struct {
	Seed     uint64   `json:"seed"` // of what the plan leaves to chance: each message's delay, and the like
	Nodes    int      `json:"nodes"`
	Servers  int      `json:"servers"` // the first of the nodes, which hold the log
	TTL      Duration `json:"ttl"`
	Expiry   string   `json:"on_expiry"` // close, drain or keep
	Drift    []int64  `json:"drift_ppm,omitempty"`
	Commit   Duration `json:"commit"`   // the time of a commit, between a half of it and one and a half
	RTT      Duration `json:"rtt"`      // between nodes
	Upstream Duration `json:"upstream"` // the longest that the upstream takes to hear of a connection, or of its end
	Limits   []Limit  `json:"limits,omitempty"`
	Workers  []Worker `json:"workers,omitempty"`
	Flows    []Flow   `json:"flows,omitempty"`
	Length   Duration `json:"length"` // of the time in which things go wrong
	Faults   []Fault  `json:"faults,omitempty"`
	Writes   []Write  `json:"writes,omitempty"` // once the faults are over
	// Every says after how many events everything is walked and checked. The upstream is checked
	// whenever a connection opens.
	Every int  `json:"check_every"`
	Codec bool `json:"codec,omitempty"` // every command is encoded and decoded on its way into the log
}

// Limit is a limit to begin with, or to be set by a fault.
type Limit struct {
	Scope       string   `json:"scope,omitempty"` // host where it is empty
	Pattern     string   `json:"pattern"`
	Connections int64    `json:"connections"`        // -1: no cap
	Requests    string   `json:"requests,omitempty"` // as in "2/s"
	Burst       int64    `json:"burst,omitempty"`
	Upload      int64    `json:"upload,omitempty"`   // bytes a second
	Download    int64    `json:"download,omitempty"` // the same
	AtOnce      int64    `json:"at_once,omitempty"`  // bytes, in each direction
	Report      bool     `json:"report,omitempty"`
	Timeout     Duration `json:"queue_timeout,omitempty"` // 0: no queue
	Size        int      `json:"queue_size,omitempty"`
	Shared      bool     `json:"shared,omitempty"`
	Evict       bool     `json:"evict,omitempty"`
	Delete      bool     `json:"delete,omitempty"` // remove the limit with this pattern
}

// limit is the limit as the log knows it.
func (l Limit) limit(source limit.Source) (limit.Limit, error) {
	scope := limit.ScopeHost
	var err error
	if l.Scope != "" {
		scope, err = limit.ParseScope(l.Scope)
	}
	var p limit.Pattern
	if err == nil {
		p, err = scope.ParsePattern(l.Pattern)
	}
	var r limit.Rate
	if err == nil && l.Requests != "" {
		r, err = limit.ParseRate(l.Requests, l.Burst)
	}
	return limit.Limit{
		Pattern: p, Connections: l.Connections, Requests: r, Shared: l.Shared, Evict: l.Evict, Report: l.Report, Source: source,
		Queue: limit.Queue{Timeout: l.Timeout.D(), Size: l.Size}, Bandwidth: limit.Bandwidth{Upload: l.Upload, Download: l.Download, Burst: l.AtOnce},
	}, err
}

// Worker is one client of one node: it connects, holds, ends, pauses, and again.
type Worker struct {
	Node int    `json:"node"`
	Host string `json:"host"`
	// Client and User say for whom it asks.
	Client string   `json:"client,omitempty"`
	User   string   `json:"user,omitempty"`
	Hold   Duration `json:"hold"`
	Pause  Duration `json:"pause"`           // after a refusal; after a connection it is a tenth of that
	Keep   Duration `json:"keep,omitempty"`  // after use the connection is kept alive for so long, and used again
	Leave  Duration `json:"leave,omitempty"` // it goes away when it has waited for so long
	Half   Duration `json:"half,omitempty"`  // one side ends its connection so long before the other, at most
}

// Duration is a time.Duration that is written like "1.5s".
type Duration time.Duration

// D is the time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// String is the plan as it is kept in files: JSON, a fault or worker a line.
func (p *Plan) String() string {
	head := *p
	head.Workers, head.Flows, head.Faults, head.Limits, head.Writes = nil, nil, nil, nil, nil
	out := string(mustJSON(head))
	out = out[:len(out)-1] // its closing brace
	list := func(name string, n int, item func(int) any) {
		out += fmt.Sprintf(",\n%q:[", name)
		for i := range n {
			if i > 0 {
				out += ","
			}
			out += "\n  " + string(mustJSON(item(i)))
		}
		out += "]"
	}
	list("limits", len(p.Limits), func(i int) any { return p.Limits[i] })
	list("workers", len(p.Workers), func(i int) any { return p.Workers[i] })
	if len(p.Flows) > 0 {
		list("flows", len(p.Flows), func(i int) any { return p.Flows[i] })
	}
	list("faults", len(p.Faults), func(i int) any { return p.Faults[i] })
	if len(p.Writes) > 0 {
		list("writes", len(p.Writes), func(i int) any { return p.Writes[i] })
	}
	return out + "}\n"
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain values: it can't be
	}
	return b
}

// ParsePlan is the inverse of String, and checks what it reads.
func ParsePlan(b []byte) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("not a plan: %w", err)
	}
	return &p, p.Validate()
}

// Validate names everything that makes the plan impossible.
func (p *Plan) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Nodes < 1 || p.Nodes > maxNodes || p.Servers < 1 || p.Servers > p.Nodes {
		bad("%d nodes with %d servers: want 1 to %d, and no more servers than nodes", p.Nodes, p.Servers, maxNodes)
	}
	if p.TTL.D() < time.Second || p.Every < 1 {
		bad("the ttl is %v and checks come every %d events: want at least 1s and 1", p.TTL.D(), p.Every)
	}
	if _, err := p.expiry(); err != nil {
		errs = append(errs, err)
	}
	if len(p.Drift) > p.Nodes {
		bad("%d clocks drift on %d nodes", len(p.Drift), p.Nodes)
	}
	for _, l := range p.Limits {
		limit, err := l.limit(limit.SourceConfig)
		if err == nil {
			err = limit.Validate()
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, x := range p.Workers {
		if _, err := x.subject(); err != nil || x.Node < 0 || x.Node >= p.Nodes {
			bad("a worker on node %d for %q of %q: %v", x.Node, x.Host, x.Client, err)
		}
	}
	for _, x := range p.Flows {
		if _, err := x.subject(); err != nil || x.ways() == nil || x.Node < 0 || x.Node >= p.Nodes || x.Most <= 0 || x.Busy <= 0 || x.Idle < 0 {
			bad("a flow on node %d to %q of %q, with bytes to go %q, %d at once, busy for %v and idle for %v: %v", x.Node, x.Host, x.Client, x.Ways, x.Most, x.Busy.D(), x.Idle.D(), err)
		}
	}
	for _, f := range p.Faults {
		if f.Node >= p.Nodes || f.Node < -1 {
			bad("a fault on node %d of %d", f.Node, p.Nodes)
		}
		if f.Kind == FaultPutBack && p.Servers != 1 {
			bad("the log of %d servers is put back: want one", p.Servers)
		}
		if f.Kind >= kinds || f.At < 0 || f.For < 0 || f.Late < 0 || f.At+f.For > p.Length {
			bad("a fault of kind %d from %v on for %v, in a plan of %v", f.Kind, f.At.D(), f.For.D(), p.Length.D())
		}
	}
	p.validateWrites(bad)
	return errors.Join(errs...)
}

const (
	// maxNodes bounds the sets of nodes, which are bits.
	maxNodes = 16
	// second abbreviates what plans are full of.
	second = time.Second
	ms     = time.Millisecond
)

// maxDrift is how far, in parts per million, two clocks may go wrong in opposite directions and
// still be less than the margin apart in a ttl; and for a short ttl, how far the rests, which don't
// grow with it, allow.
func maxDrift(ttl time.Duration) int64 {
	apart := int64(leaseMargin) * 1_000_000 / int64(2*ttl+leaseMargin)
	return min(apart*95/100, 70_000)
}

// Mix makes the plan of a seed.
type Mix func(seed uint64) *Plan

// Generate is the general mix of faults. One seed in three concentrates on one kind of trouble.
func Generate(seed uint64) *Plan {
	g := newGenerator(seed)
	g.faults()
	if alone := newDice(seed, 8); alone.one(12) {
		g.putBack(&alone)
	} else if two := newDice(seed, 10); two.one(6) {
		g.strays(&two)
	}
	g.scopes()
	g.bandwidth()
	g.halfCloses()
	g.successions()
	g.dips()
	g.reshapes()
	return g.p
}

// GenerateChanges is the mix in which nothing goes wrong but that limits are written anew, many
// times.
func GenerateChanges(seed uint64) *Plan {
	g := newGenerator(seed)
	g.p.Length = Duration(1500 * ms)
	g.scopes()
	g.bandwidth()
	g.halfCloses()
	d := newDice(seed, 22)
	g.rewrites(&d, 2+d.below(20))
	return g.p
}

// newGenerator has made the cluster, its limits and its workers.
func newGenerator(seed uint64) *generator {
	g := &generator{dice: newDice(seed, 1), p: &Plan{Seed: seed, Every: 64}}
	g.cluster()
	g.limits()
	g.workers()
	return g
}

// halfCloses lets some workers close one side of their connections before the other.
func (g *generator) halfCloses() {
	d := newDice(g.p.Seed, 16)
	if d.one(2) {
		return
	}
	for i := range g.p.Workers {
		if w := &g.p.Workers[i]; w.Keep == 0 && d.one(2) {
			w.Half = Duration(d.scale(ms, 300*ms))
		}
	}
}

type generator struct {
	dice
	p     *Plan
	hosts []string
}

func (g *generator) cluster() {
	p := g.p
	p.Nodes = 3 + g.below(3)
	if g.one(4) {
		p.Nodes = 3
	}
	p.Servers = 3
	if p.Nodes == 5 && g.one(3) {
		p.Servers = 5
	}
	p.TTL = Duration(pick(&g.dice, second, second, 2*second, 2*second, 3*second, 3*second, 5*second))
	p.Expiry = "close"
	if g.one(16) {
		p.Expiry = pick(&g.dice, "drain", "keep")
	}
	if g.one(2) {
		most := maxDrift(p.TTL.D())
		for range p.Nodes {
			p.Drift = append(p.Drift, most*int64(g.below(3)-1))
		}
	}
	p.Commit = Duration(g.scale(ms/2, 20*ms))
	p.RTT = Duration(g.scale(ms/5, 20*ms))
	p.Upstream = Duration(g.scale(ms, 20*ms))
	if g.one(8) {
		p.Upstream = Duration(60 * ms)
	}
	if g.one(16) {
		p.Every = 1
	}
	p.Codec = g.one(4)
}

func (g *generator) limits() {
	g.hosts = []string{"up"}
	g.limit("up", 1+int64(g.below(4)))
	if g.one(2) {
		g.hosts = append(g.hosts, "down")
		g.limit("down", 1+int64(g.below(3)))
	}
	if g.one(3) {
		g.hosts = append(g.hosts, "a.x.org", "b.x.org")
		g.limit("*.x.org", 1+int64(g.below(3)))
		last := &g.p.Limits[len(g.p.Limits)-1]
		last.Shared = g.one(2)
	}
	if g.one(4) {
		g.hosts = append(g.hosts, "free")
	}
}

func (g *generator) limit(pattern string, n int64) {
	g.p.Limits = append(g.p.Limits, g.anyLimit(pattern, n))
}

func (g *generator) anyLimit(pattern string, n int64) Limit {
	l := Limit{Pattern: pattern, Connections: n}
	if g.one(2) {
		l.Timeout, l.Size = Duration(g.between(500*ms, 5*second)), 1+g.below(20)
	}
	return l
}

// workers makes few and slow ones in most worlds, so that many worlds can be run, and many quick
// ones in some.
func (g *generator) workers() {
	budget := 8.0 // connections a second
	n, longest := g.p.Nodes+g.below(2*g.p.Nodes), 5*second
	switch g.below(10) {
	case 0:
		budget, n = 60, 4*g.p.Nodes
	case 1, 2, 3: // few and quick: who starves is soon seen
		n, longest = g.p.Nodes+g.below(2), 400*ms
	}
	for i := range n {
		w := Worker{Node: i % g.p.Nodes, Host: g.hosts[0]}
		if i >= g.p.Nodes {
			w.Node = g.below(g.p.Nodes)
			w.Host = g.hosts[g.below(len(g.hosts))]
		}
		w.Hold = Duration(g.scale(20*ms, longest))
		w.Pause = Duration(g.scale(60*ms, second))
		if g.one(4) {
			w.Keep = Duration(g.scale(50*ms, longest*3/5))
		}
		if g.one(6) {
			w.Leave = Duration(g.scale(10*ms, second))
		}
		g.p.Workers = append(g.p.Workers, w)
	}
	rate := 0.0
	for _, w := range g.p.Workers {
		rate += float64(second) / float64(w.Hold.D()+w.Keep.D()+w.Pause.D()/2)
	}
	if slow := rate / budget; slow > 1 {
		for i := range g.p.Workers {
			w := &g.p.Workers[i]
			w.Hold = Duration(min(float64(w.Hold)*slow, float64(6*second)))
			w.Pause = Duration(min(float64(w.Pause)*slow, float64(second)))
		}
	}
}
