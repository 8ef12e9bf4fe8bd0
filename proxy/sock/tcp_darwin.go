package sock

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// tcpKeepIdle is the option for the silence before a peer is probed, in seconds.
const tcpKeepIdle = unix.TCP_KEEPALIVE

// States of TCP_CONNECTION_INFO (netinet/tcp_fsm.h).
const (
	tcpClosed   = 0
	tcpTimeWait = 10
)

// IsOver reports whether the connection is over for the kernel: both FINs are acknowledged, or it
// was reset.
func IsOver(fd int) (bool, error) {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return false, err
	}
	return info.State == tcpClosed || info.State == tcpTimeWait, nil
}

// roundTrip returns the kernel's smoothed round-trip time, or 0 for a closed connection.
func roundTrip(fd int) time.Duration {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Srtt) * time.Millisecond
}

// taken returns a number that changes with each byte that the peer's kernel acknowledges: the send
// buffer holds those that are not acknowledged. The number is in the upper half, because the caller
// adds written bytes to the lower half, which could otherwise offset the change.
func taken(fd int) uint64 {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return -uint64(info.Snd_sbbytes) << 32
}

// carried returns a number that changes with each byte received or acknowledged by the peer's
// kernel, built like [taken].
func carried(fd int) uint64 {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return info.Rxbytes - uint64(info.Snd_sbbytes)<<32
}

// received returns the number of received bytes that have not been read.
func received(fd int) int {
	n, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NREAD) // 0 for a closed socket
	return n
}

// setOptionsAfterShutdown is SONPX_SETOPTSHUT (sys/socket.h).
const setOptionsAfterShutdown = 1

// allowLateOptions allows setting options after both directions are shut down. Without it, a
// connection whose FIN the peer does not acknowledge could no longer be reset. If this fails, such
// a connection ends when the kernel gives up.
func allowLateOptions(fd int) {
	var extensions [8]byte // struct so_np_extensions: flags, mask
	binary.NativeEndian.PutUint32(extensions[0:], setOptionsAfterShutdown)
	binary.NativeEndian.PutUint32(extensions[4:], setOptionsAfterShutdown)
	_ = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_NP_EXTENSIONS, string(extensions[:]))
}
