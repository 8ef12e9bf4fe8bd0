package handshake

import "strings"

// IdentityBytes is the length of the random identity that a node makes with its data directory.
const IdentityBytes = 16

// identityDigits of an identity are in a Raft server id.
const identityDigits = 16

// ServerID returns a server's id in the Raft configuration. A server that lost its data directory
// has another identity, and so another id. identity is in hexadecimal digits.
func ServerID(name, identity string) string {
	return name + "." + identity[:min(identityDigits, len(identity))]
}

// NameOf returns the node name in a Raft server id.
func NameOf(serverID string) string {
	if i := strings.LastIndexByte(serverID, '.'); i >= 0 {
		return serverID[:i]
	}
	return serverID
}
