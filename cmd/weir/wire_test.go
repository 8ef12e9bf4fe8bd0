package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// What the state machine refuses is in the log all the same: a leader that tries again at once
// would fill it.
func TestFoundingPausesAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		tries := 0
		refuse := func() error { tries++; return errors.New("refused") }
		if foundCluster(ctx, refuse, func() bool { return false }, hclog.NewNullLogger()) {
			t.Error("a cluster was founded that was refused")
		}
		if most := int(time.Minute/foundPause) + 1; tries > most {
			t.Errorf("%d tries in a minute, want at most %d", tries, most)
		}
		founded := false
		found := func() error { founded = true; return nil }
		if !foundCluster(t.Context(), found, func() bool { return founded }, hclog.NewNullLogger()) {
			t.Error("no cluster was founded")
		}
	})
}
