package cluster

import (
	"errors"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/rpcport"
)

// Errors of a proposal or of a leader's action. Only after [ErrUnknownOutcome] may the entry have
// been applied, or still be applied later.
var (
	// ErrNotLeader says that the entry was not written, because this node does not lead, or does
	// not lead in the given term.
	ErrNotLeader = errors.New("this node does not lead the cluster")
	// ErrUnknownOutcome is wrapped by every error that leaves open whether the entry is applied.
	ErrUnknownOutcome = errors.New("the write may or may not take effect")
	// ErrLeadershipLost says that leadership ended while the entry was on its way. It wraps
	// ErrUnknownOutcome.
	ErrLeadershipLost = &outcomeError{"leadership was lost while writing"}
	// ErrTimeout says that no quorum of servers took the entry in time. It wraps ErrUnknownOutcome.
	ErrTimeout = &outcomeError{"no quorum of servers answered in time"}
	// ErrBusy says that the entry was not written, because Raft did not accept it in time.
	ErrBusy = errors.New("raft is busy and took no new entry in time")
	// ErrDiskFull says that the entry was not written, because this server's disk has no room.
	ErrDiskFull = errors.New("the disk that holds data_dir is full: free some space; the server goes on by itself")
	// ErrTooLarge says that the entry was not written, because it exceeds the largest entry.
	ErrTooLarge = errors.New("the entry is too large for the Raft log")
	// ErrMixedVersions says that the entry was not written, because not all servers understand it.
	ErrMixedVersions = errors.New("not all servers understand the log entry")
	// ErrClosed says that the node is shutting down.
	ErrClosed = rpcport.ErrClosed
	// ErrNoRaft says that the node's role holds no Raft state.
	ErrNoRaft = errors.New("this node holds no Raft state: ask a server")
	// ErrUnknownPeer says that no server in the Raft configuration has the name.
	ErrUnknownPeer = errors.New("no such server in the Raft configuration")
	// ErrUnsafe says that an action would cost the cluster its quorum.
	ErrUnsafe = errors.New("the cluster would lose its quorum")
	// ErrNotTransferred says that this server leads on, because no other one took leadership over.
	ErrNotTransferred = errors.New("leadership could not be transferred")
	// ErrOtherCluster says that two nodes are of two clusters.
	ErrOtherCluster = handshake.ErrOtherCluster
	// ErrNameTaken says that another live process has this node's name.
	ErrNameTaken = errors.New("the node name is taken")
	// ErrDataDirInUse says that another node, of this process or another, has the data directory.
	ErrDataDirInUse = errors.New("data_dir is in use")
)

// inUseError says who has a data directory.
type inUseError struct{ what string }

func (e *inUseError) Error() string { return e.what }
func (e *inUseError) Unwrap() error { return ErrDataDirInUse }

type outcomeError struct{ what string }

func (e *outcomeError) Error() string { return e.what + ": " + ErrUnknownOutcome.Error() }
func (e *outcomeError) Unwrap() error { return ErrUnknownOutcome }
