package gossip

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clustertest"
)

// What strangers can make memberlist say is said a few times in half a minute,
// however many they are.
func TestStrangersCauseFewLines(t *testing.T) {
	const times = 5000
	for _, line := range []string{
		"[ERR] memberlist: msg type (%d) not supported from=192.0.2.1:%[1]d",
		"[ERR] memberlist: discarding packet with unacceptable label \"x%d\": from=192.0.2.1:%[1]d",
		"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.9.%[1]d:5",
		"[ERR] memberlist: Failed to decode compound request: truncated len slice from=[2001:db8::%x]:5",
		"[WARN] memberlist: Got invalid checksum for UDP packet: %x, 0",
		"[WARN] memberlist: Refuting a suspect message (from: stranger%d)",
		"[ERR] memberlist: Failed to decode ping request: EOF from=192.0.2.1:%d",
	} {
		var log clustertest.Log
		out := newQuietLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info}))
		for i := range times {
			out.Printf(line, i)
		}
		if n := strings.Count(log.String(), "\n"); n < 1 || n > maxLines {
			t.Errorf("%d lines of %d like %q", n, times, line)
		}
	}
}
