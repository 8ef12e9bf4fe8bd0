package proxy

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// tcpKeepIdle is the option for the silence after which a peer is asked, in seconds.
const tcpKeepIdle = unix.TCP_KEEPALIVE

// States of TCP_CONNECTION_INFO (netinet/tcp_fsm.h).
const (
	tcpClosed   = 0
	tcpTimeWait = 10
)

// isOver reports whether the kernel is done with a connection: both FINs are acknowledged, or it
// was reset.
func isOver(fd int) (bool, error) {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return false, err
	}
	return info.State == tcpClosed || info.State == tcpTimeWait, nil
}

// roundTrip is the kernel's smoothed round-trip time, 0 for a closed connection.
func roundTrip(fd int) time.Duration {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Srtt) * time.Millisecond
}

// taken changes with each byte that the peer's kernel acknowledges: those that it has not are in
// the send buffer. They are counted in the upper half, where what is written meanwhile, which the
// caller counts in the lower one, can't make up for them.
func taken(fd int) uint64 {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return -uint64(info.Snd_sbbytes) << 32
}

// carried changes with each byte that comes or that the peer's kernel acknowledges, as [taken]
// does.
func carried(fd int) uint64 {
	info, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0
	}
	return info.Rxbytes - uint64(info.Snd_sbbytes)<<32
}

// received is the number of bytes that have come and that nobody has read yet.
func received(fd int) int {
	n, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NREAD) // 0 for a closed one
	return n
}

// setOptionsAfterShutdown is SONPX_SETOPTSHUT (sys/socket.h).
const setOptionsAfterShutdown = 1

// allowLateOptions lets options be set once both directions are shut down, without which a
// connection whose end the peer does not acknowledge could not be reset any more. Failing, that
// connection ends when the kernel gives it up.
func allowLateOptions(fd int) {
	var extensions [8]byte // struct so_np_extensions: flags, mask
	binary.NativeEndian.PutUint32(extensions[0:], setOptionsAfterShutdown)
	binary.NativeEndian.PutUint32(extensions[4:], setOptionsAfterShutdown)
	_ = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_NP_EXTENSIONS, string(extensions[:]))
}
