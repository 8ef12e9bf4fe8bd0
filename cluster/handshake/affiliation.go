package handshake

import (
	"errors"
	"fmt"
	"sync"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// Meeting says how two nodes have met.
type Meeting uint8

// The meetings.
const (
	MetDialled  Meeting = iota // this node dialled an address from gossip, Raft or a leader
	MetProbed                  // this node is undecided, and asks its cluster.join addresses for their cluster
	MetAccepted                // the other node dialled this one
	MetMeant                   // the other node dialled this one, and named its Raft id
)

// Affiliation holds the cluster of this node. A node belongs to one cluster for good. It is
// undecided until it has reached a member through its own configuration, or gets the id from the
// log or from its first session. From then on it refuses members of any other cluster.
//
// The id is settled once the log or a session has confirmed it, and is then kept in the data
// directory. Before, the id comes from the members at cluster.join, and lasts as long as the
// process.
type Affiliation struct {
	// Seed says that cluster.join is empty: other nodes find such a node, and it follows the first
	// cluster that dials it. It is set before the first connection.
	Seed    bool
	keep    func(id string) error
	decided func(id string) // or nil

	mu      sync.Mutex
	id      string
	settled bool
}

// NewAffiliation returns the affiliation of a node whose data directory holds the id saved, or "".
// keep stores a settled id, durably. decided, if not nil, is called once the id is known, in the
// goroutine that learned it.
func NewAffiliation(saved string, keep func(id string) error, decided func(id string)) *Affiliation {
	return &Affiliation{id: saved, settled: saved != "", keep: keep, decided: decided}
}

// errUndecided refuses a cluster's member while one of the two nodes has yet to find its own
// cluster.
var errUndecided = errors.New("one of the two nodes belongs to no cluster yet: it has reached no member through its own cluster.join")

// Cluster returns the id, or "" while the node is undecided.
func (a *Affiliation) Cluster() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

// judge returns nil if this node may deal with the other one, and otherwise the reason, for the
// log.
func (a *Affiliation) judge(other *clusterpb.Introduction, at string, how Meeting) error {
	theirs := other.GetCluster()
	if theirs == "" {
		return nil
	}
	mine := a.Cluster()
	switch {
	case mine == theirs:
		return nil
	case mine == "" && how == MetMeant: // it is in that cluster's Raft configuration: the log will say which cluster it is
		return nil
	case mine == "" && how == MetProbed: // judged once all have answered
		return nil
	case mine != "":
		return OtherCluster(other, at, mine)
	case how == MetAccepted && a.Seed: // it follows, once that is confirmed to be a node
		return nil
	default:
		return errUndecided
	}
}

// follow makes a seed join the cluster of the node that dialled it.
func (a *Affiliation) follow(other *clusterpb.Introduction, how Meeting) error {
	if other.GetCluster() == "" || how != MetAccepted || !a.Seed || a.Cluster() != "" {
		return nil
	}
	return a.Lean(other.GetCluster())
}

// Lean adopts an id for the life of the process.
func (a *Affiliation) Lean(id string) error {
	a.mu.Lock()
	if a.id != "" {
		mine := a.id
		a.mu.Unlock()
		if mine != id {
			return fmt.Errorf("%w: %s, not %s", ErrOtherCluster, mine, id)
		}
		return nil
	}
	a.id = id
	a.mu.Unlock()
	if a.decided != nil {
		a.decided(id)
	}
	return nil
}

// Settle adopts an id for good. If storing it fails, nothing has changed.
func (a *Affiliation) Settle(id string) error {
	a.mu.Lock()
	mine, settled := a.id, a.settled
	a.mu.Unlock()
	if mine != "" && mine != id {
		return fmt.Errorf("%w: this node is of cluster %s, but the log or the session that it uses is of cluster %s", ErrOtherCluster, mine, id)
	}
	if settled {
		return nil
	}
	if err := a.keep(id); err != nil {
		return err
	}
	if err := a.Lean(id); err != nil {
		return err
	}
	a.mu.Lock()
	a.settled = true
	a.mu.Unlock()
	return nil
}

// ErrOtherCluster says that two nodes are of two clusters.
var ErrOtherCluster = errors.New("two clusters meet")

// OtherCluster is the reason that both nodes log: a misfit that is [ErrOtherCluster]. at is the
// other node's address, mine this node's cluster.
func OtherCluster(other *clusterpb.Introduction, at, mine string) error {
	return &Misfit{
		What:     fmt.Sprintf("node %s at %s is of cluster %s, and this node of cluster %s", other.GetNode(), at, other.GetCluster(), mine),
		Do:       "take the addresses of the one cluster out of cluster.join in the other, and give each node an address of its own",
		Sentinel: ErrOtherCluster,
	}
}
