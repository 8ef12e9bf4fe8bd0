//go:build linux

// Command bench measures weir beside a floor (the smallest relay, and no proxy at all) and beside
// other proxies, on one machine, in one run: each round gives every contender the same load for the
// same time, one after the other, and what is judged are ratios within a round, by their median.
// docs/performance.md tells the method.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weirproxy/weir/e2e/bench/wire"
)

// settings are the command line's.
type settings struct {
	weir, relay string // programs
	before      string // another weir to measure in turns with it; "" for none
	logLevel    string // of weir
	rounds      int
	window      time.Duration
	workloads   []string // names, or what is before their number; none is all
	peers       []string
	others      []other
	json, base  string

	profiler, profiled, profileDir string
}

// bench is a run.
type bench struct {
	settings *settings
	out      io.Writer
	upstream *wire.Upstream
	wideUsed int // hosts that no round may use again

	workload string // under way
	round    int
	dropped  int // times that the relay or weir has failed
}

func main() {
	s, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line. If that asks for help, help is where it goes, and the error is
// flag.ErrHelp.
func parse(args []string, help io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // mistakes are told once, by the caller
	f.Usage = func() {}
	f.StringVar(&s.weir, "weir", "bin/weir", "the weir binary")
	f.StringVar(&s.before, "before", "", "another weir binary, from before a change, to measure in turns with it")
	f.StringVar(&s.relay, "relay", "bin/bench-relay", "the relay binary")
	f.StringVar(&s.logLevel, "log", "info", "weir's log level; info, the default of a node, writes a line for each connection")
	f.IntVar(&s.rounds, "rounds", 5, "rounds; fewer than 5 are for a quick look")
	f.DurationVar(&s.window, "window", 1500*time.Millisecond, "what is measured of each contender in a round")
	workloads := f.String("workloads", "", "workloads, with commas between: churn is all of churn-1, churn-16, churn-64 and churn-name; all by default")
	peers := f.String("peers", "squid,tinyproxy", "peers to start, where they are installed")
	f.Func("peer", "another peer, already running: name=host:port,pid; may be repeated", func(text string) error {
		o, err := parseOther(text)
		s.others = append(s.others, o)
		return err
	})
	f.StringVar(&s.json, "json", "", "write all rounds to this file")
	f.StringVar(&s.base, "base", "", "compare with this file, of an earlier run")
	f.StringVar(&s.profiler, "profile", "", "perf, strace or pprof (weir alone): look at a contender while it is measured, which spoils its figures")
	f.StringVar(&s.profiled, "profiled", weir, "the contender to look at")
	f.StringVar(&s.profileDir, "profiles", ".", "the directory for what profilers write")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(help)
			f.PrintDefaults()
		}
		return nil, err
	}
	s.workloads, s.peers = list(*workloads), list(*peers)
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("%q is not understood: all settings are flags", f.Arg(0))
	case s.rounds < 1 || s.window <= 0:
		return nil, errors.New("rounds and window must be above 0")
	case s.profiler != "" && s.profiler != pprof && profilers[s.profiler] == nil:
		return nil, fmt.Errorf("profile %q: want perf, strace or pprof", s.profiler)
	}
	_, err := s.chosen()
	return s, err
}

// list splits at commas; the empty string is the empty list.
func list(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

// chosen are the workloads that the settings name.
func (s *settings) chosen() ([]workload, error) {
	all := workloads()
	if len(s.workloads) == 0 {
		return all, nil
	}
	var some []workload
	for _, w := range all {
		if slices.ContainsFunc(s.workloads, func(name string) bool { return w.name == name || strings.HasPrefix(w.name, name+"-") }) {
			some = append(some, w)
		}
	}
	if len(some) == 0 {
		var names []string
		for _, w := range all {
			names = append(names, w.name)
		}
		return nil, fmt.Errorf("no workload is called %s: there are %s", strings.Join(s.workloads, " or "), strings.Join(names, ", "))
	}
	return some, nil
}

// run measures and reports.
func run(ctx context.Context, s *settings, out io.Writer) error {
	if err := s.missing(); err != nil {
		return err
	}
	var base *report
	if s.base != "" {
		var err error
		if base, err = readReport(s.base); err != nil {
			return fmt.Errorf("base: %w", err)
		}
	}
	upstream, err := wire.StartUpstream(8)
	if err != nil {
		return err
	}
	defer upstream.Close()
	b := &bench{settings: s, out: out, upstream: upstream}
	chosen, err := s.chosen()
	if err != nil {
		return err
	}
	team := b.assemble()
	defer team.stop()
	rounds := map[string][]round{}
	for _, w := range chosen {
		if rounds[w.name], err = b.all(ctx, w, team); err != nil {
			return err
		}
	}
	if err := b.report(rounds, chosen, team.names(), base); err != nil {
		return err
	}
	if b.dropped > 0 {
		return fmt.Errorf("%d times a contender that is judged dropped out: its figures lack those rounds", b.dropped)
	}
	return nil
}

func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

// report prints the tables and writes the file.
func (b *bench) report(rounds map[string][]round, chosen []workload, contenders []string, base *report) error {
	var names []string
	b.printf("\n")
	for _, w := range chosen {
		names = append(names, w.name)
		b.printf("%-11s %s\n", w.name, w.about)
	}
	b.printf("\n")
	if err := table(b.out, rounds, contenders, base); err != nil {
		return err
	}
	b.printf("\n")
	if err := besides(b.out, rounds, contenders, names); err != nil {
		return err
	}
	for _, name := range starved(rounds) {
		b.printf("%s: neither the relay nor the machine was busy: something else held the load back\n", name)
	}
	if b.settings.profiler != "" {
		b.printf("%s was looked at with %s: its figures are not its own\n", b.settings.profiled, b.settings.profiler)
	}
	if b.settings.json == "" {
		return nil
	}
	r := newReport(rounds)
	r.Made, r.Contenders, r.Machine = time.Now().UTC().Truncate(time.Second), contenders, machine()
	r.Settings = map[string]string{"log": b.settings.logLevel, "window": b.settings.window.String()}
	return r.write(b.settings.json)
}

// machine describes what the run was made on.
func machine() string {
	kernel := "?"
	var name syscall.Utsname
	if syscall.Uname(&name) == nil {
		var text []byte
		for _, c := range name.Release {
			if c == 0 {
				break
			}
			text = append(text, byte(c))
		}
		kernel = string(text)
	}
	return fmt.Sprintf("%d processors, %s, Linux %s", runtime.NumCPU(), runtime.Version(), kernel)
}

// all runs a workload's rounds: in each, every contender has its turn.
func (b *bench) all(ctx context.Context, w workload, t *team) ([]round, error) {
	b.workload = w.name
	var rounds []round
	for i := range b.settings.rounds {
		b.round = i + 1
		r, err := t.round(ctx, b, w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		rounds = append(rounds, r)
		b.printf("%s %d/%d  %s\n", w.name, i+1, b.settings.rounds, short(r, w.name))
	}
	return rounds, nil
}

// short is a round's first figure, for the eye while it waits.
func short(r round, workload string) string {
	for _, row := range rows() {
		if row.workload != workload {
			continue
		}
		var parts []string
		for name := range r {
			if v := digits(r.of(name, row.metric)); v != "" {
				parts = append(parts, name+" "+v)
			}
		}
		slices.Sort(parts)
		return row.figure + ": " + strings.Join(parts, ", ")
	}
	return ""
}

// team is the contenders.
type team struct {
	makers  []maker
	running map[string]*contender
}

// assemble names the contenders, and says which can't be there.
func (b *bench) assemble() *team {
	t := &team{running: map[string]*contender{}}
	for _, m := range makers(b.settings) {
		if m.skip != "" {
			b.printf("without %s: %s\n", m.name, m.skip)
			continue
		}
		t.makers = append(t.makers, m)
	}
	return t
}

// names are the contenders' in the order of the table.
func (t *team) names() []string {
	var names []string
	for _, m := range t.makers {
		names = append(names, m.name)
		if m.hasLimits() {
			names = append(names, m.name+free)
		}
	}
	return names
}

func (t *team) stop() {
	for _, c := range t.running {
		c.stop()
	}
}

// round gives each contender its turn in a workload.
func (t *team) round(ctx context.Context, b *bench, w workload) (round, error) {
	r := round{}
	for _, m := range t.makers {
		if !w.takes(&contender{name: m.name}, m.peer) {
			continue
		}
		c, done, err := t.get(ctx, b.settings, m, w.fresh)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		turns := []*contender{c}
		if f := c.free(); m.hasLimits() && w.takes(f, false) {
			turns = append(turns, f)
		}
		for _, c := range turns {
			if r[c.name], err = w.run(ctx, b, c); err == nil {
				continue
			}
			delete(r, c.name)
			if ctx.Err() != nil {
				done()
				return nil, context.Cause(ctx)
			}
			b.printf("%s: %s drops out of this round: %v\n", w.name, c.name, err)
			if !m.peer {
				b.dropped++
			}
		}
		done()
	}
	return r, nil
}

// get starts a contender, or finds it running; done gives it back.
func (t *team) get(ctx context.Context, s *settings, m maker, fresh bool) (c *contender, done func(), err error) {
	if c := t.running[m.name]; c != nil && !fresh {
		return c, func() {}, nil
	}
	if c, err = m.start(ctx, s); err != nil {
		return nil, nil, err
	}
	if fresh {
		return c, c.stop, nil
	}
	t.running[m.name] = c
	return c, func() {}, nil
}

// missing says what is not there of the programs to measure.
func (s *settings) missing() error {
	programs := []string{s.weir, s.relay}
	if s.before != "" {
		programs = append(programs, s.before)
	}
	for _, path := range programs {
		if _, err := exec.LookPath(path); err != nil {
			return fmt.Errorf("%w: make bench builds it", err)
		}
	}
	return nil
}
