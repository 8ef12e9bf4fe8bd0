package sock

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tcpKeepIdle is the option for the silence before a peer is probed, in seconds.
const tcpKeepIdle = unix.TCP_KEEPIDLE

// States of TCP_INFO (include/net/tcp_states.h).
const (
	tcpTimeWait = 6
	tcpClose    = 7
)

// IsOver reports whether the connection is over for the kernel: both FINs are acknowledged, or it
// was reset.
func IsOver(fd int) (bool, error) {
	var state byte // TCP_INFO's first field
	size := uint32(unsafe.Sizeof(state))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return false, errno
	}
	return state == tcpClose || state == tcpTimeWait, nil
}

// roundTrip returns the kernel's smoothed round-trip time, or 0 for a closed connection.
func roundTrip(fd int) time.Duration {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Rtt) * time.Microsecond
}

// taken returns the number of bytes that the peer's kernel has acknowledged.
func taken(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}

// carried returns the number of bytes received, plus those that the peer's kernel has acknowledged.
func carried(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked + info.Bytes_received
}

// received returns the number of received bytes that have not been read.
func received(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.SIOCINQ) // 0 for a closed socket
	return n
}
