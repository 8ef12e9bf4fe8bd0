package gossip

import (
	"bytes"
	"crypto/rand"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"

	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	window       = 30 * time.Second
	maxStrangers = 8 // lines in a window
)

// What strangers can make memberlist say is said a few times in half a minute, however many they
// are.
func TestStrangersCauseFewLines(t *testing.T) {
	const times = 5000
	for line, most := range map[string]int{
		"[ERR] memberlist: msg type (%d) not supported from=192.0.2.1:%[1]d":                                             1,
		"[ERR] memberlist: discarding packet with unacceptable label \"x%d\": from=192.0.2.1:%[1]d":                      1,
		"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.9.%[1]d:5":         maxStrangers,
		"[ERR] memberlist: Failed to decode compound request: truncated len slice from=[2001:db8::%x]:5":                 maxStrangers,
		"[WARN] memberlist: Got invalid checksum for UDP packet: %x, 0":                                                  1,
		"[WARN] memberlist: Refuting a suspect message (from: stranger%d)":                                               maxLines,
		"[ERR] memberlist: Failed to decode ping request: EOF from=192.0.2.1:%d":                                         1,
		"[ERR] memberlist: Error accepting TCP connection: accept tcp 192.0.2.1:8083: accept4: too many open files (%d)": 1,
	} {
		var log clustertest.Log
		out := newQuietLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info}), lognoise.Strangers())
		for i := range times {
			out.Printf(line, i)
		}
		if n := strings.Count(log.String(), "\n"); n < 1 || n > most {
			t.Errorf("%d lines of %d like %q, want at most %d", n, times, line, most)
		}
	}
}

// Strangers who flood the port with datagrams of every kind, for minutes and from everywhere, cause
// few lines in each half minute, but some in every one: nothing of theirs reaches memberlist.
func TestStrangersDatagramsCauseFewLines(t *testing.T) {
	const mine, other = "0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef"
	const times = 60 // in half a minute
	bomb := pack(t, make([]byte, maxPacket+1))
	kinds := [][]byte{
		{}, []byte("w"), []byte("GET / HTTP/1.1"), mark([]byte("\x00ping"), other), mark(nil, mine), mark(bomb, mine), mark(bomb, ""),
		mark([]byte{gossipPacked, 0xc1}, ""), mark(compound(bomb), ""), mark([]byte{gossipLabel}, ""), mark(withCRC(nil), ""),
	}
	synctest.Test(t, func(t *testing.T) {
		var log clustertest.Log
		logger := hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})
		strangers := lognoise.Strangers()
		refusals := &refusals{log: logger, said: strangers}
		tr := &transport{door: &handshake.Doorkeeper{Of: handshake.NewAffiliation(mine, nil, nil)}, refused: refusals.note}
		memberlists := newQuietLogger(logger, strangers)
		said := 0
		for range 4 {
			for i := range times {
				from := &net.UDPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: i + 1}
				random := make([]byte, 40)
				_, _ = rand.Read(random)
				for _, b := range append(kinds, random) {
					if tr.takes(&memberlist.Packet{Buf: bytes.Clone(b), From: from, Timestamp: time.Now()}) {
						t.Fatalf("%q reaches memberlist", b)
					}
				}
				// What is marked and whole does reach it, and is refused there.
				memberlists.Printf("[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=%v", from)
				time.Sleep(window / times)
			}
			all := strings.Count(log.String(), "\n")
			if lines := all - said; lines < 1 || lines > maxStrangers {
				t.Errorf("%d lines in half a minute, want 1 to %d:\n%s", lines, maxStrangers, &log)
			}
			said = all
		}
	})
}

// A machine whose gossip can't be decrypted is named once in half a minute, with one line for all
// its packets and streams.
func TestAWrongKeyIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log clustertest.Log
		out := newQuietLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info}), lognoise.Strangers())
		for i := range 3 {
			for port := range 500 {
				out.Printf("[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=192.0.2.1:%d", port)
				out.Printf("[ERR] memberlist: failed to receive: no installed keys could decrypt the message from=192.0.2.1:%d", port)
			}
			want := "a node's gossip is refused: from=192.0.2.1:0 reason=\"the gossip keys differ: give both nodes the same cluster.gossip_key"
			if got := strings.Count(log.String(), want); got != i+1 || strings.Count(log.String(), "\n") != i+1 {
				t.Errorf("said %d times in %d half minutes:\n%s", got, i+1, &log)
			}
			time.Sleep(window)
		}
	})
}
