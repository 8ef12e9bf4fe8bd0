package main

import (
	"context"
	"errors"
	"testing"

	"github.com/weirproxy/weir/fsm"
)

// fixedLog answers every proposal alike.
type fixedLog struct {
	res fsm.Result
	err error
}

func (l fixedLog) Propose(context.Context, uint64, fsm.Command) (fsm.Result, error) {
	return l.res, l.err
}
func (l fixedLog) VerifyLeader(context.Context) error { return nil }

// An entry that the state machine refuses counts as a failure, like one that the log did not take: who proposes it in a loop
// must pause.
func TestRefusedEntryIsAnError(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		log  fixedLog
		want error
	}{
		{fixedLog{}, nil},
		{fixedLog{err: failed}, failed},
		{fixedLog{res: fsm.Result{Err: fsm.ErrInvalid}}, fsm.ErrInvalid},
		{fixedLog{res: fsm.Result{Err: fsm.ErrStaleTerm}}, fsm.ErrStaleTerm},
	} {
		if err := proposeEntry(t.Context(), c.log, 1, &fsm.Init{}); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.log, err, c.want)
		}
	}
}
