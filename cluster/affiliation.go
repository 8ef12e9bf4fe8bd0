package cluster

import (
	"errors"
	"fmt"
	"sync"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// meeting says how two nodes have met.
type meeting uint8

const (
	metDialled  meeting = iota // this node dialled an address from gossip, Raft or a leader
	metProbed                  // this node is undecided, and asks its cluster.join addresses for their cluster
	metAccepted                // the other node dialled this one
	metMeant                   // the other node dialled this one, and named its Raft id
)

// affiliation holds the cluster of this node. A node belongs to one cluster for good. It is
// undecided until it has reached a member through its own configuration, or gets the id from the
// log or from its first session. From then on it refuses members of any other cluster.
//
// The id is settled once the log or a session has confirmed it, and is then kept in the data
// directory. Before, the id comes from the members at cluster.join, and lasts as long as the
// process.
type affiliation struct {
	// seed says that cluster.join is empty: other nodes find such a node, and it follows the first
	// cluster that dials it.
	seed bool
	// keep stores a settled id, durably.
	keep func(id string) error
	// decided, if not nil, is called once the id is known, in the goroutine that learned it.
	decided func(id string)

	mu      sync.Mutex
	id      string
	settled bool
}

// errUndecided refuses a cluster's member while one of the two nodes has yet to find its own
// cluster.
var errUndecided = errors.New("one of the two nodes belongs to no cluster yet: it has reached no member through its own cluster.join")

// cluster returns the id, or "" while the node is undecided.
func (a *affiliation) cluster() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

// judge returns nil if this node may deal with the other one, and otherwise the reason, for the
// log.
func (a *affiliation) judge(other *clusterpb.Introduction, at string, how meeting) error {
	theirs := other.GetCluster()
	if theirs == "" {
		return nil
	}
	mine := a.cluster()
	switch {
	case mine == theirs:
		return nil
	case mine == "" && how == metMeant: // it is in that cluster's Raft configuration: the log will say which cluster it is
		return nil
	case mine == "" && how == metProbed: // judged once all have answered
		return nil
	case mine != "":
		return otherCluster(other, at, mine)
	case how == metAccepted && a.seed: // it follows, once that is confirmed to be a node
		return nil
	default:
		return errUndecided
	}
}

// follow makes a seed join the cluster of the node that dialled it.
func (a *affiliation) follow(other *clusterpb.Introduction, how meeting) error {
	if other.GetCluster() == "" || how != metAccepted || !a.seed || a.cluster() != "" {
		return nil
	}
	return a.lean(other.GetCluster())
}

// lean adopts an id for the life of the process.
func (a *affiliation) lean(id string) error {
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

// settle adopts an id for good. If storing it fails, nothing has changed.
func (a *affiliation) settle(id string) error {
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
	if err := a.lean(id); err != nil {
		return err
	}
	a.mu.Lock()
	a.settled = true
	a.mu.Unlock()
	return nil
}

// ErrOtherCluster says that two nodes are of two clusters.
var ErrOtherCluster = errors.New("two clusters meet")

// otherCluster is the reason that both nodes log.
func otherCluster(other *clusterpb.Introduction, at, mine string) error {
	return &misfit{
		what: fmt.Sprintf("node %s at %s is of cluster %s, and this node of cluster %s", other.GetNode(), at, other.GetCluster(), mine),
		do:   "take the addresses of the one cluster out of cluster.join in the other, and give each node an address of its own",
		is:   ErrOtherCluster,
	}
}
