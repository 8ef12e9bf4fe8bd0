package leasepb

import (
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
)

const (
	// Version is the version of the protocol that a hello states.
	Version = 2
	// VersionPaged is that of a hello that states holdings in several messages. A leader that does
	// not know it must not take the first message for the whole: it would release slots that are in
	// use.
	VersionPaged = 3
	// LimitsVersion is the log version (fsm/version.go) whose limits and keys this process can read. A
	// hello states it: a node is not sent limits that it would misread. The other way round nothing is
	// needed: limits hold nothing that the leader does not know, so a newer node can read them.
	LimitsVersion = 3
)

const (
	// Margin is how much longer than the ttl the leader waits before it ends a silent session. It
	// covers clocks that run apart, and the time that a reset takes to reach the upstream.
	Margin = 500 * time.Millisecond
	// KeepAlives is how many are sent in a ttl. The protocol asks for three; a fourth leaves a node
	// whose leader has died a quarter of a second more, at a ttl of 3 s, to find the next one.
	KeepAlives = 4
	// MaxBatch bounds the keys of one Update, and the changes of one entry.
	MaxBatch = 2048
	// NoTarget stands for "hold as many as you use".
	NoTarget int64 = -1
)

// The states of a session. At the node, fenced is also what comes after.
const (
	SessionNone    = "none"
	SessionLive    = "live"
	SessionFenced  = "fenced"  // its time has run out; the node must have stopped using it
	SessionExpired = "expired" // and the cluster has taken its slots back
)

// Readable reports whether this process knows every key that the other side names.
func Readable(holdings []*Holding, demands []*Demand) bool {
	for _, h := range holdings {
		if _, err := fsmpb.ParseKey(h.GetKey()); err != nil {
			return false
		}
	}
	for _, d := range demands {
		if _, err := fsmpb.ParseKey(d.GetKey()); err != nil {
			return false
		}
	}
	return true
}
