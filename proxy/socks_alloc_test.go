//go:build !race

package proxy

import (
	"runtime"
	"testing"
)

// allocated returns how often memory is allocated for one call of f, on average. The best of some
// rounds counts: what others allocate meanwhile is left out.
func allocated(f func()) float64 {
	const rounds, calls = 5, 100
	best := 0.0
	for i := range rounds {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			f()
		}
		runtime.ReadMemStats(&after)
		if n := float64(after.Mallocs-before.Mallocs) / calls; i == 0 || n < best {
			best = n
		}
	}
	return best
}

// A tunnel by SOCKS5 allocates no more often than one by CONNECT. The race detector empties pools
// at random, so the test runs without it.
func TestSOCKSAllocatesAsCONNECT(t *testing.T) {
	proxy, up := benchServer(t)
	connect, socks := byCONNECT(t, proxy, up), bySOCKS5(t, proxy, up)
	connect()
	socks()
	c, s := allocated(connect), allocated(socks)
	t.Logf("%.2f allocations by CONNECT, %.2f by SOCKS5", c, s)
	if s > c+0.5 {
		t.Errorf("%.2f allocations by SOCKS5, %.2f by CONNECT; want no more", s, c)
	}
}
