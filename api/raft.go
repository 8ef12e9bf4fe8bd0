package api

// RaftPeers answers GET /v1/raft/peers.
type RaftPeers struct {
	Peers []RaftPeer `json:"peers"` // sorted by name
}

// RaftPeer is one member of the consensus group.
type RaftPeer struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Address string `json:"address"`
	Voter   bool   `json:"voter"`
	Leader  bool   `json:"leader"`
}

// RaftPeerRemoved answers DELETE /v1/raft/peers/{name}.
type RaftPeerRemoved struct {
	Index   uint64 `json:"index"` // of the write
	Removed string `json:"removed"`
}

// RaftTransfer is the body of POST /v1/raft/transfer, which is optional.
type RaftTransfer struct {
	To string `json:"to,omitempty"` // a peer's name; empty: the most up-to-date one
}

// RaftTransferred answers POST /v1/raft/transfer.
type RaftTransferred struct {
	From string `json:"from"`
	To   string `json:"to,omitempty"` // as asked
}
