package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/rpcport"
)

// raftLayer carries Raft's connections over the rpc port.
type raftLayer struct {
	net.Listener
	port *rpcport.Port
}

// Dial implements [raft.StreamLayer] for addresses made by composeAddress.
func (l raftLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, ok := strings.Cut(string(to), "@")
	if !ok {
		return nil, fmt.Errorf("no address is known for the server at %s", to)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.port.Dial(ctx, addr, handshake.KindRaft, id)
}

// composeAddress makes the address that Raft's transport dials. It contains the id, so that the
// preface can name the server it is meant for.
func composeAddress(id raft.ServerID, addr string) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + addr)
}

// addressBook finds a server's present address. Gossip may have a newer one than the Raft
// configuration.
type addressBook struct {
	self     raft.ServerID
	selfAddr string
	lookup   func(id raft.ServerID) (addr string, ok bool)
}

// ServerAddr implements [raft.ServerAddressProvider]. The own address stays plain, because other
// servers receive it.
func (b addressBook) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if id == b.self {
		return raft.ServerAddress(b.selfAddr), nil
	}
	addr, ok := b.lookup(id)
	if !ok {
		return "", fmt.Errorf("no address is known for server %s", id)
	}
	return composeAddress(id, addr), nil
}

// verifyingTransport records, for each peer, when the last heartbeat was sent that the peer agreed
// to. While muted, it sends followers nothing: to them the leader is gone.
type verifyingTransport struct {
	*raft.NetworkTransport
	acks  *ackBook
	muted *atomic.Bool
}

// errMuted is the error that Raft gets for a message that was not sent.
var errMuted = errors.New("this leader's disk has stalled: it waits to be replaced")

// AppendEntries implements [raft.Transport]. Heartbeats always come this way, entries sometimes.
func (t verifyingTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.muted.Load() {
		return errMuted
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, to, args, resp)
	if err == nil && resp.Success {
		t.acks.note(id, args.Term, sent)
	}
	return err
}

// AppendEntriesPipeline implements [raft.Transport].
func (t verifyingTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	pipeline, err := t.NetworkTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return mutablePipeline{pipeline, t.muted}, nil
}

// mutablePipeline sends nothing while muted.
type mutablePipeline struct {
	raft.AppendPipeline
	muted *atomic.Bool
}

// AppendEntries implements [raft.AppendPipeline].
func (p mutablePipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.muted.Load() {
		return nil, errMuted
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// ackBook records, for each follower, the latest time at which it certainly followed this leader.
type ackBook struct {
	mu   sync.Mutex
	term uint64
	sent map[raft.ServerID]time.Time
}

func (b *ackBook) note(id raft.ServerID, term uint64, sent time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if term < b.term {
		return
	}
	if term > b.term || b.sent == nil {
		b.term, b.sent = term, make(map[raft.ServerID]time.Time)
	}
	if sent.After(b.sent[id]) {
		b.sent[id] = sent
	}
}

// quorumSince reports whether a quorum of the voters, this server among them, has agreed in this
// term to a message that was sent at since or later.
func (b *ackBook) quorumSince(term uint64, since time.Time, self raft.ServerID, servers []raft.Server) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	voters, agreed := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == self || (b.term == term && !b.sent[s.ID].IsZero() && !b.sent[s.ID].Before(since)) {
			agreed++
		}
	}
	return agreed >= voters/2+1
}
