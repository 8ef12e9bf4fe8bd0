package gossip

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/weirproxy/weir/cluster/handshake"
)

// Every gossip packet begins with a mark: two bytes for the format, and the beginning of the
// sender's cluster id, or zeros while it has none. Unlike the handshake, a mark costs no round trip
// and proves nothing: it filters packets at addresses that two clusters use one after the other.
const (
	packetMagic = "w\x02"
	clusterMark = 12 // bytes of the id
	markBytes   = len(packetMagic) + clusterMark
)

var errUnmarked = errors.New("a packet on the gossip port is not gossip of this version: let only nodes reach the port, and upgrade them together")

// mark puts the mark of a cluster before a packet.
func mark(b []byte, cluster string) []byte {
	marked := make([]byte, markBytes, markBytes+len(b))
	copy(marked, packetMagic)
	copy(marked[len(packetMagic):], cluster)
	return append(marked, b...)
}

// unmark removes the mark from a packet of the same cluster, or of a node that has yet to find its
// cluster. Other packets are errors. A node that is itself undecided ("") takes all.
func unmark(b []byte, cluster string) ([]byte, error) {
	if len(b) < markBytes || string(b[:len(packetMagic)]) != packetMagic {
		return nil, errUnmarked
	}
	theirs := bytes.TrimRight(b[len(packetMagic):markBytes], "\x00")
	mine := cluster[:min(len(cluster), clusterMark)]
	if len(theirs) > 0 && mine != "" && string(theirs) != mine {
		return nil, &handshake.Misfit{
			What:     fmt.Sprintf("a member of another cluster (its id begins with %q) takes this node for one of its own, of cluster %s", theirs, cluster),
			Do:       "give the nodes of each cluster addresses of their own, and remove this node from that cluster",
			Sentinel: handshake.ErrOtherCluster,
		}
	}
	return b[markBytes:], nil
}
