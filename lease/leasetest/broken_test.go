package leasetest

import (
	"testing"
	"time"
)

func TestBrokenRulesAreFound(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.String(), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			for seed := uint64(1); seed <= 3000; seed++ {
				if out := Run(Generate(seed), rule); out.Breach != "" {
					t.Logf("%d seeds, %v: %s", seed, time.Since(began), out.Breach)
					return
				}
			}
			t.Error("no seed finds it")
		})
	}
}
