//go:build !race

package auth

import (
	"context"
	"testing"
)

// The race detector makes pools forget.
func TestKnownCredentialsCostNoAllocation(t *testing.T) {
	g := NewGate()
	g.compare = func(_, _ []byte) error { return nil }
	r := NewRoster([]User{{Name: "ada"}}, nil)
	h, user, password := basicField("ada:lovelace"), []byte("ada"), []byte("lovelace")
	ask := func() {
		if name, err := g.Basic(context.Background(), r, h, testAddr); name != "ada" || err != nil {
			t.Fatal(name, err)
		}
		if name, err := g.Password(context.Background(), r, user, password, testAddr); name != "ada" || err != nil {
			t.Fatal(name, err)
		}
	}
	ask()
	if n := testing.AllocsPerRun(100, ask); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
