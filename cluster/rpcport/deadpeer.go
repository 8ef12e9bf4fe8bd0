package rpcport

import (
	"errors"
	"net"
	"time"
)

// endAfterSilence makes the kernel end a TCP connection whose peer has been silent for this long,
// whether data waits for acknowledgement (RFC 5482) or not (RFC 9293, section 3.8.4). Otherwise
// connections would survive a partition unserved, or with retransmissions as far apart as the
// partition was long: a node would stay cut off for as long again. gRPC probes too, but not within
// ten seconds.
func endAfterSilence(conn net.Conn, after time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // a connection in memory
	}
	return errors.Join(
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probeEvery, Interval: probeEvery, Count: int(after / probeEvery)}),
		setUserTimeout(tcp, after),
	)
}
