package proxy

import (
	"time"

	"golang.org/x/sys/unix"
)

// tcpKeepIdle is the option for the silence after which a peer is asked, in seconds.
const tcpKeepIdle = unix.TCP_KEEPIDLE

// States of TCP_INFO (include/net/tcp_states.h).
const (
	tcpTimeWait = 6
	tcpClose    = 7
)

// isOver reports whether the kernel is done with a connection: both FINs are acknowledged, or it
// was reset.
func isOver(fd int) (bool, error) {
	state, err := unix.GetsockoptByte(fd, unix.IPPROTO_TCP, unix.TCP_INFO) // its first field
	return state == tcpClose || state == tcpTimeWait, err
}

// roundTrip is the kernel's smoothed round-trip time, 0 for a closed connection.
func roundTrip(fd int) time.Duration {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Rtt) * time.Microsecond
}

// taken changes with each byte that the peer's kernel acknowledges: here it is their number.
func taken(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}

// carried changes with each byte that comes or that the peer's kernel acknowledges: here it is
// their number.
func carried(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked + info.Bytes_received
}

// received is the number of bytes that have come and that nobody has read yet.
func received(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.SIOCINQ) // 0 for a closed one
	return n
}
