//go:build !race

package leasetest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// The world can fail: whichever rule is broken, the ordinary mix of faults finds a breach, of a
// kind that the rule is there to prevent. Another kind says that the switch breaks something else.
// The log says how many seeds it took.
func TestBrokenRulesAreFound(t *testing.T) {
	type found struct {
		seeds  uint64
		took   time.Duration
		kind   Breach
		breach string
	}
	all := Rules()
	results := make([]found, len(all))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i, rule := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			for tried := uint64(1); tried <= brokenSeeds; tried++ {
				if out := Run(Generate(brokenFirst+tried), rule); out.Breach != "" && !slices.Contains(besides[rule], out.Kind) {
					results[i] = found{tried, time.Since(began), out.Kind, out.Breach}
					return
				}
			}
		})
	}
	wg.Wait()
	table := ""
	for i, rule := range all {
		r := results[i]
		if r.seeds == 0 {
			t.Errorf("none of %d seeds finds that %s is broken", brokenSeeds, rule)
			continue
		}
		if !rule.Finds(r.kind) {
			t.Errorf("%s is broken, and seed %d finds a breach of the kind %s, want one of %s: %s", rule, brokenFirst+r.seeds, r.kind, prevents[rule], r.breach)
		}
		table += fmt.Sprintf("%-20s %6d seeds %8v  %s\n", rule, r.seeds, r.took.Round(time.Millisecond), r.breach)
	}
	t.Logf("\n%s", table)
}
