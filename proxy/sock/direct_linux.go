//go:build !portable && !race

package sock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls that every connection makes are made directly: the Go scheduler is not told. Telling it
// is for calls that may wait, so that another thread can run the other goroutines meanwhile; none
// of these does. It costs some 130 instructions, and often wakes the scheduler's monitor thread,
// which then looks every 20 µs whether the call has returned.

// readNow is read(2) of a non-blocking socket.
func readNow(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// writeNow is write(2) to a non-blocking socket.
func writeNow(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
