package proxy

import (
	"testing"

	"golang.org/x/sys/unix"
)

// newMemoryFile returns the descriptor of an empty file without a name.
func newMemoryFile(t *testing.T) int {
	fd, err := unix.MemfdCreate("sink", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
