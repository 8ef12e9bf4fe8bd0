package proxy

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// newMemoryFile returns the descriptor of an empty file.
func newMemoryFile(t *testing.T) int {
	fd, err := unix.Open(filepath.Join(t.TempDir(), "sink"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
