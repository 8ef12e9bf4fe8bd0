package cluster

import (
	"errors"
	"net"
	"time"
)

// endAfterSilence lets the kernel end a TCP connection whose peer has not been heard for so long,
// whether anything waits to be acknowledged (RFC 5482) or not (RFC 9293, section 3.8.4). Without
// it, a partition leaves connections behind that nobody serves any more, or on which the kernel
// repeats itself at intervals that have grown as long as the partition was: a node would be cut off
// for as long again. gRPC probes too, but not within ten seconds.
func endAfterSilence(conn net.Conn, after time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // in memory
	}
	return errors.Join(
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probeEvery, Interval: probeEvery, Count: int(after / probeEvery)}),
		setUserTimeout(tcp, after),
	)
}
