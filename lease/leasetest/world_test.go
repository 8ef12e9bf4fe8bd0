package leasetest

import (
	"flag"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this seed's plan in TestWorld")
	seedsFlag = flag.Int("seeds", 0, "how many seeds TestWorld runs")
)

func TestWorld(t *testing.T) {
	if *seedFlag != 0 {
		p := Generate(*seedFlag)
		out := RunTraced(p, 0)
		t.Logf("%s\n%s\n%+v", p, out.Trace, out.Breach)
		if out.Breach != "" {
			t.Fatal(out.Breach)
		}
		return
	}
	n := *seedsFlag
	if n == 0 {
		n = 200
	}
	began := time.Now()
	var steps, conns int
	var at time.Duration
	bad := 0
	for seed := uint64(1); seed <= uint64(n); seed++ {
		out := Run(Generate(seed), 0)
		steps += out.Steps
		conns += out.Connections
		at += out.At
		if out.Breach != "" {
			t.Errorf("seed %d: %s", seed, out.Breach)
			if bad++; bad > 25 {
				break
			}
		}
	}
	d := time.Since(began)
	t.Logf("%d seeds in %v: %v a seed, %d steps, %d connections, %v virtual", n, d, d/time.Duration(n), steps/n, conns/n, at/time.Duration(n))
}
