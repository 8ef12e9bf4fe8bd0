//go:build !race

package proxy

import (
	"context"
	"testing"
)

// The race detector makes pools forget.
func TestKnownCredentialsCostNoAllocation(t *testing.T) {
	g := newGate()
	r := newRoster(testUsers(t), nil)
	h := headWith("ada:lovelace")
	ask := func() {
		if name, refusal := g.user(context.Background(), r, h, testAddr); name != "ada" || refusal != nil {
			t.Fatal(name, refusal)
		}
	}
	ask()
	if n := testing.AllocsPerRun(100, ask); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
