package gossip

import (
	"errors"
	"strings"
	"testing"
)

// TestPacketMarks: a packet is taken of members of the own cluster and of nodes without one.
func TestPacketMarks(t *testing.T) {
	t.Parallel()
	const one, two = "0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef"
	for _, test := range []struct {
		from, to string
		taken    bool
	}{{one, one, true}, {one, two, false}, {"", one, true}, {one, "", true}, {"", "", true}} {
		body, err := unmark(mark([]byte("ping"), test.from), test.to)
		if (err == nil) != test.taken || err == nil && string(body) != "ping" {
			t.Errorf("from %q to %q: %q, %v", test.from, test.to, body, err)
		}
	}
	for _, b := range []string{"", "w", "ping", "w\x01" + strings.Repeat("x", 40)} {
		if _, err := unmark([]byte(b), one); !errors.Is(err, errUnmarked) {
			t.Errorf("%q: %v", b, err)
		}
	}
}
