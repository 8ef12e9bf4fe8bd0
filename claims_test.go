package weir

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

type noHolder struct{}

func (noHolder) Sever(lease.Reason) {}

// A worker's next request takes the memory of the one before it: plain requests on kept connections
// cost the collector nothing.
func TestClaimsAreUsedAgain(t *testing.T) {
	a := admitter{lease.NewManager(lease.ManagerConfig{
		Name: "a", Identity: "1", Clock: lease.NewSystemClock(), Log: hclog.NewNullLogger(), Limits: limit.NewTable(1, 1, nil),
	})}
	subject := &limit.Subject{User: "nightly"}
	first, err := a.Begin(t.Context(), subject, noHolder{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := a.Begin(t.Context(), subject, noHolder{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first == other {
		t.Fatal("two requests in hand have the same claims")
	}
	ended := first
	if allocs := testing.AllocsPerRun(100, func() {
		ended.End()
		if ended, err = a.Begin(t.Context(), subject, noHolder{}, ended); err != nil {
			t.Fatal(err)
		}
	}); allocs > 0 || ended != first {
		t.Errorf("%.0f allocations for the next request; the same claims: %v", allocs, ended == first)
	}
	ended.End()
	other.End()
}
