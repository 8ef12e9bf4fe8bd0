package netns

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The states of /proc/net/tcp in which a socket's connection has ended on this side: TIME_WAIT,
// CLOSE and LISTEN.
var closedStates = []string{"06", "07", "0A"}

// countTo counts the sockets of a /proc/net/tcp table whose connection to addr has not ended on
// this side. Addresses in it are words in the machine's order, which is little-endian wherever the
// tests run.
func countTo(table string, addr netip.Addr) (int, error) {
	b := addr.As4()
	slices.Reverse(b[:])
	want := strings.ToUpper(hex.EncodeToString(b[:]))
	count := 0
	for i, line := range strings.Split(strings.TrimSpace(table), "\n") {
		if i == 0 { // the heading
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 4 {
			return 0, fmt.Errorf("line %d of the socket table is %q", i+1, line)
		}
		remote, _, _ := strings.Cut(fields[2], ":")
		if remote == want && !slices.Contains(closedStates, fields[3]) {
			count++
		}
	}
	return count, nil
}
