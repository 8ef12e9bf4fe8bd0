//go:build !linux || portable || race

package sock

import "golang.org/x/sys/unix"

// readNow reads a non-blocking socket. Package unix tells the race detector that what preceded a
// write precedes what follows the read.
func readNow(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

// writeNow writes to a non-blocking socket.
func writeNow(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
