// Command sim runs many seeds of the simulated cluster, and tells of the first that breaks a
// promise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/weirproxy/weir/lease/leasetest"
)

type options struct {
	seeds   uint64
	first   uint64
	workers int
	long    time.Duration
	rule    string
	keep    string
	tries   int
	changes bool
}

func main() {
	var o options
	flag.Uint64Var(&o.seeds, "seeds", 1_000_000, "how many seeds to run")
	flag.Uint64Var(&o.first, "first", 1, "the first")
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "how many run at once")
	flag.DurationVar(&o.long, "for", 0, "stop after so long; 0: run all seeds")
	flag.StringVar(&o.rule, "break", "", "break this rule, to see it found")
	flag.StringVar(&o.keep, "keep", "weir-sim.plan", "the file for the plan of a breach")
	flag.IntVar(&o.tries, "tries", 5000, "how many plans to try to find the smallest that fails")
	flag.BoolVar(&o.changes, "changes", false, "let nothing go wrong but that limits change, many times")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	debug.SetGCPercent(leasetest.GCPercent)
	var rule leasetest.Rule
	if o.rule != "" {
		var ok bool
		if rule, ok = leasetest.RuleByName(o.rule); !ok {
			return fmt.Errorf("no rule is called %q: the rules are %v", o.rule, leasetest.Rules())
		}
	}
	if o.long > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.long)
		defer cancel()
	}
	b := &batch{next: o.first, end: o.first + o.seeds, rule: rule, mix: leasetest.Generate}
	if o.changes {
		b.mix = leasetest.GenerateChanges
	}
	began := time.Now()
	b.run(ctx, o.workers, began)
	took := time.Since(began)
	fmt.Print(b.totals.Summary(took))
	if b.breach == "" {
		fmt.Printf("no breach in %d seeds, from %d on, in %v\n", b.totals.Seeds, o.first, took.Round(time.Second))
		return nil
	}
	return b.tell(o)
}

// batch is the seeds to run, and what has come of them.
type batch struct {
	mix  leasetest.Mix
	rule leasetest.Rule

	mu     sync.Mutex
	next   uint64
	end    uint64
	totals leasetest.Totals
	seed   uint64 // of the first breach
	breach string
}

// run runs them until all have been, one fails or ctx ends.
func (b *batch) run(ctx context.Context, workers int, began time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				seed, ok := b.take(ctx)
				if !ok {
					return
				}
				b.note(seed, leasetest.Run(b.mix(seed), b.rule))
			}
		})
	}
	var progress sync.WaitGroup
	progress.Go(func() { b.progress(ctx, began) })
	wg.Wait()
	cancel()
	progress.Wait()
}

func (b *batch) take(ctx context.Context) (uint64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next >= b.end || b.breach != "" || ctx.Err() != nil {
		return 0, false
	}
	b.next++
	return b.next - 1, true
}

func (b *batch) note(seed uint64, out leasetest.Outcome) {
	found := out.Breach != "" && (b.rule == 0 || b.rule.Finds(out.Kind))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.totals.Add(out)
	if found && (b.breach == "" || seed < b.seed) {
		b.seed, b.breach = seed, out.Breach
	}
}

// progress prints a line every few seconds.
func (b *batch) progress(ctx context.Context, began time.Time) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.mu.Lock()
			line := b.totals.Line(time.Since(began))
			b.mu.Unlock()
			fmt.Println(line)
		}
	}
}

// tell shrinks what failed and tells of it.
func (b *batch) tell(o options) error {
	fmt.Printf("seed %d: %s\nlooking for a smaller plan that fails\n", b.seed, b.breach)
	p := leasetest.Shrink(b.mix(b.seed), b.rule, o.tries)
	out := leasetest.RunTraced(p, b.rule, 300)
	fmt.Printf("%s\n%s\n%s\n", p, out.Trace, out.Breach)
	file, err := filepath.Abs(o.keep) // the test runs in its package's directory
	if err == nil {
		err = os.WriteFile(file, []byte(p.String()), 0o600)
	}
	return errors.Join(fmt.Errorf("seed %d: %s: run `go test ./lease/leasetest -run World -plan %s -v`, and keep that file in lease/leasetest/testdata", b.seed, b.breach, file), err)
}
