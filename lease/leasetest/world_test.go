package leasetest

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the only seed that TestWorld runs, with an account of it")
	planFlag  = flag.String("plan", "", "the file of the only plan that TestWorld runs, with an account of it")
	breakFlag = flag.String("break", "", "the rule that is broken in it")
	linesFlag = flag.Int("lines", 300, "how many lines of it, up to its end")
	seedsFlag = flag.Int("seeds", worldSeeds, "how many seeds TestWorld runs")
	firstFlag = flag.Uint64("first", 0, "the first of them; 0: at random")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(GCPercent)
	goleak.VerifyTestMain(m)
}

// Whatever fails, the upstream never sees more than its limit, no node contradicts the log, and
// when the faults stop, all is well again. Each run of the test searches other seeds, from the one
// that it prints. With -seed or -plan it replays one run.
func TestWorld(t *testing.T) {
	if *seedFlag != 0 || *planFlag != "" {
		replay(t)
		return
	}
	search(t, Generate, *seedsFlag)
}

// The same where nothing goes wrong but that limits are written anew, many times in a short while.
func TestLimitsThatChange(t *testing.T) { search(t, GenerateChanges, *seedsFlag/2) }

func search(t *testing.T, mix Mix, seeds int) {
	first := *firstFlag
	if first == 0 {
		first = 1 + rand.Uint64N(1<<40)
	}
	t.Logf("%d seeds from %d on: with -first %d the same ones run", seeds, first, first)
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < uint64(seeds) && !t.Failed(); i = next.Add(1) - 1 {
				p := mix(first + i)
				if out := Run(p, 0); out.Breach != "" {
					report(t, p, out)
				}
			}
		})
	}
	wg.Wait()
}

// report shrinks what failed, tells of it and keeps it.
func report(t *testing.T, plan *Plan, out Outcome) {
	p := Shrink(plan, 0, 2000)
	file := filepath.Join(os.TempDir(), "weir-"+t.Name()+".plan")
	if err := os.WriteFile(file, []byte(p.String()), 0o600); err != nil {
		t.Error(err)
	}
	small := RunTraced(p, 0, *linesFlag)
	t.Errorf("seed %d: %s\nshrunk to the plan below, which fails with: %s\nkept in %s, to be moved to lease/leasetest/testdata\n%s\n%s",
		plan.Seed, out.Breach, small.Breach, file, p, small.Trace)
}

func replay(t *testing.T) {
	rule := Rule(0)
	if *breakFlag != "" {
		var ok bool
		if rule, ok = RuleByName(*breakFlag); !ok {
			t.Fatalf("no rule is called %q", *breakFlag)
		}
	}
	p := Generate(*seedFlag)
	if *planFlag != "" {
		p = readPlan(t, *planFlag)
	}
	out := RunTraced(p, rule, *linesFlag)
	t.Logf("%s\n%s", p, out.Trace)
	if out.Breach != "" {
		t.Fatal(out.Breach)
	}
}

func readPlan(t *testing.T, file string) *Plan {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePlan(b)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return p
}

// Plans that once failed, or that show what one rule is for, fail no more.
func TestKeptPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.plan")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d plans are kept: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".plan")
		t.Run(name, func(t *testing.T) {
			p := readPlan(t, file)
			if out := Run(p, 0); out.Breach != "" {
				t.Error(out.Breach)
			}
			rule, breaks := RuleByName(strings.TrimPrefix(name, "break-"))
			if !breaks {
				return
			}
			if !shows(p, rule) {
				t.Error("the plan does not show any more what the rule is for: keep another, with `go run ./lease/leasetest/sim -break RULE -keep FILE`")
			}
		})
	}
}

// shows reports whether a plan fails with the rule broken, in a way that the rule is there to
// prevent, by some of what it leaves to chance: a change of who gets which slot when, which is no
// rule, must not make the plan worthless.
func shows(p *Plan, rule Rule) bool {
	q := *p
	for range 100 {
		if rule.Finds(Run(&q, rule).Kind) {
			return true
		}
		q.Seed++
	}
	return false
}

// The same seed gives the same run, event by event, and a plan that was written and read is the
// same plan.
func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 60; seed++ {
		p := Generate(seed)
		q, err := ParsePlan([]byte(p.String()))
		if err != nil {
			t.Fatal(err)
		}
		a, b := Run(p, 0), Run(q, 0)
		if a != b {
			t.Errorf("seed %d: %+v, and then %+v", seed, a, b)
		}
	}
}

// What the shrinker leaves fails as the whole does, and is smaller.
func TestShrink(t *testing.T) {
	for seed := uint64(1); ; seed++ {
		p := Generate(seed)
		if len(p.Faults) < 5 || Run(p, RuleNoFence).Breach == "" {
			continue
		}
		q := Shrink(p, RuleNoFence, 400)
		if Run(q, RuleNoFence).Breach == "" {
			t.Error("the smaller plan does not fail")
		}
		if len(q.Faults) > 3 || len(q.Faults) >= len(p.Faults) {
			t.Errorf("%d of %d faults are left:\n%s", len(q.Faults), len(p.Faults), q)
		}
		return
	}
}
