package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// What the node has in hand costs no memory: claims, tokens, bytes, and bytes that a flow sleeps
// for.
func TestHeldUnitsCostNoMemory(t *testing.T) {
	free := func(what string, scopes []limit.Scope, f func()) {
		t.Helper()
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s under %d limits: %v allocations", what, len(scopes), n)
		}
	}
	rate, err := limit.ParseRate("10000000/s", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, scopes := range benchScopes {
		var limits []limit.Limit
		for _, scope := range scopes {
			pattern := "*"
			if scope.Bare() {
				pattern = ""
			}
			limits = append(limits, benchLimit(t, scope, pattern))
		}
		free("claims", scopes, heldClaims(t, &cheapClock{time.Hour}, limits...))
		m := heldRates(t, &cheapClock{time.Hour}, limit.Requests, scopes, func(l *limit.Limit) { l.Requests = rate })
		free("a token", scopes, func() {
			if err := m.Take(t.Context(), &benchSubject, 0); err != nil {
				t.Fatal(err)
			}
		})
		_, f := meterAt(t, &cheapClock{time.Hour}, limit.MaxBandwidth, scopes...)
		free("bytes", scopes, func() {
			n := f.Take(64 << 10)
			if n == 0 {
				t.Fatal("nothing is in hand")
			}
			f.Put(n / 2)
		})
	}
	for _, scopes := range benchScopes[1:] {
		m, f, clock := pacedMeter(t, scopes...)
		free("paced bytes", scopes, func() { takePaced(m, f, clock) })
	}
}
