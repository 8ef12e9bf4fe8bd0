package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestARealFullDisk fills a file system of one megabyte.
func TestARealFullDisk(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Logf("no small file system can be mounted here (%v): only the injected failure was tested", err)
		return
	}
	defer func() { must(t, syscall.Unmount(mount, 0)) }()
	path := filepath.Join(mount, "data")
	n := startNode(t, "a", path, expecting(1))
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	var err error
	written := uint64(0)
	for range 200 { // free pages inside the file take some
		if _, _, err = n.Propose(t.Context(), 0, make([]byte, 4096)); err != nil {
			break
		}
		written += 4096
	}
	if !errors.Is(err, ErrDiskFull) {
		t.Fatalf("a write on a full disk: %v", err)
	}
	must(t, os.Remove(ballast))
	eventually(t, 15*time.Second, "leads again", func() bool { return n.leads() != 0 && !n.RaftStatus().DiskFull })
	propose(t, n, "z")
	n.halt()
	back := startNode(t, "a", path, expecting(1))
	eventually(t, 5*time.Second, "leads after a restart", func() bool { return back.leads() != 0 })
	if got := back.fsm.total(); got != written+1 {
		t.Errorf("the FSM holds %d, want %d", got, written+1)
	}
	back.halt()
}
