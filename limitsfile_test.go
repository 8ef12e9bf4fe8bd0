package weir

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

func (k *limitsKeeper) waits() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next != nil
}

// A disk that takes nothing, here a pipe without a reader in the place of the file, holds up
// nobody; what is written in the end is the newest.
func TestKeepingTheLimitsHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), limitsFile)
	if err := syscall.Mkfifo(path+".tmp", 0o600); err != nil {
		t.Fatal(err)
	}
	k := &limitsKeeper{path: path, log: hclog.NewNullLogger()}
	k.keep(limit.NewTable(1, 0, nil))
	for k.waits() {
		runtime.Gosched() // until the first is being written
	}
	k.keep(limit.NewTable(2, 0, nil))
	k.keep(limit.NewTable(3, 0, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	k.wait(ctx)
	k.await(ctx, 1)
	if ctx.Err() == nil {
		t.Fatal("it has written to a pipe that nobody reads")
	}
	// The first write goes on, into the pipe, and fails: a pipe can't be synced. The next finds no
	// pipe.
	if err := os.Rename(path+".tmp", path+".pipe"); err != nil {
		t.Fatal(err)
	}
	// Without O_NONBLOCK, this would wait for a writer; there is none if the first write had not
	// begun when the pipe was moved.
	stalled, err := os.OpenFile(path+".pipe", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stalled.Close() }()
	k.await(t.Context(), 3)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table, err := leasepb.UnmarshalTable(b)
	if err != nil || table.Index != 3 {
		t.Fatalf("the file has %+v, %v; want index 3", table, err)
	}
}
