package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// A transfer to a voter that is down says so and changes nothing; the caller's own deadline stays
// one.
func TestTransferToADeadVoter(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	dead := others(leader, nodes)[0]
	dead.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := leader.Transfer(ctx, dead.cfg.Name)
	if !errors.Is(err, ErrNotTransferred) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("transfer to a dead voter: %v", err)
	} else if text := err.Error(); !strings.Contains(text, dead.cfg.Name+" has not taken over") || !strings.Contains(text, "weir nodes") {
		t.Errorf("the error does not say who, and what to do: %q", text)
	}
	propose(t, leader, "it leads on")

	ended, end := context.WithCancel(t.Context())
	end()
	if err := leader.Transfer(ended, dead.cfg.Name); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotTransferred) {
		t.Errorf("a transfer that its caller has given up: %v", err)
	}
}
