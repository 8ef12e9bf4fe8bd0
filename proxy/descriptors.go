package proxy

import (
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/sock"
)

// The reckoning of file descriptors. A node that runs out of them loses its place in the cluster,
// so the proxy takes no more clients than it can serve beside everything else that needs a
// descriptor, all of it at once:
//
//	the node        Raft, gossip, the API and the log's files: each bounds what strangers can take
//	pipes           of splice, sock.MaxPipes with two ends each
//	strangers       connections that allow_clients refuses, maxStrangers
//	name servers    every query that the resolver may have under way
//	each client     its own connection and one to an upstream; over TLS also the pair between
//	closings        upstream connections without a client, until the upstream's FIN: one for
//	                closingShare clients
//
// An upstream connection that is kept for reuse is in the place of the one that a client could
// open, and is closed for it.

const (
	// minDescriptors is assumed if the limit is lower or unknown.
	minDescriptors = 512
	// mostOfNode bounds the descriptors that are reserved for the node; below, they are nodeShare
	// of the limit. A higher value leaves room for more nodes and fewer clients.
	mostOfNode = 4096
	nodeShare  = 0.4
	// maxStrangers bounds the refused clients that are answered at a time. Further ones are closed
	// without an answer.
	maxStrangers = 32
	// closingShare is the number of clients for each upstream connection that may take its time to
	// close.
	closingShare = 8
	// minClients are accepted whatever the limit is.
	minClients = 16
)

// defaultMaxClients is the number of clients for which the process's limit has room.
func defaultMaxClients(tls bool) int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		limit.Cur = minDescriptors
	}
	return clientsWithin(int(max(min(limit.Cur, 1<<22), minDescriptors)), tls)
}

// clientsWithin is the number of clients for which a limit has room; at least minClients.
func clientsWithin(limit int, tls bool) int {
	perClient := descriptorsPerClient(tls)
	free := limit - min(int(nodeShare*float64(limit)), mostOfNode) - 2*sock.MaxPipes - maxStrangers*(perClient-1) - resolve.Descriptors(limit)
	return max(free*closingShare/(perClient*closingShare+1), minClients)
}

// descriptorsPerClient includes the client's upstream connection.
func descriptorsPerClient(tls bool) int {
	if tls {
		return 4
	}
	return 2
}
