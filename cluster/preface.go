package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// kind says what a connection to the rpc port carries. Numbers are on the wire: they are only appended to.
type kind byte

const (
	kindRaft kind = 1
	kindGRPC kind = 2
	kindHTTP kind = 3
)

const (
	prefaceMagic   = "weir"
	prefaceVersion = 1
	prefaceHead    = 3 // version, kind, length of the target
	maxTarget      = 255
)

// preface is the first thing on every connection.
type preface struct {
	kind kind
	// target is the Raft id of the server that the connection is meant for; "" for whoever listens.
	target string
}

// append appends the preface as it goes on the wire.
func (p preface) append(b []byte) ([]byte, error) {
	if len(p.target) > maxTarget {
		return nil, fmt.Errorf("the server id %q is longer than %d bytes", p.target, maxTarget)
	}
	b = append(b, prefaceMagic...)
	b = append(b, prefaceVersion, byte(p.kind), byte(len(p.target)))
	return append(b, p.target...), nil
}

// readPreface reads a preface and not a byte beyond it. Four bytes that are not weir's are enough to refuse.
func readPreface(r io.Reader) (preface, error) {
	magic := make([]byte, len(prefaceMagic))
	n, err := io.ReadFull(r, magic)
	if string(magic[:n]) != prefaceMagic[:n] {
		return preface{}, fmt.Errorf("not a weir node: the connection starts like %s", resembles(magic[:n]))
	}
	if err != nil {
		return preface{}, fmt.Errorf("the preface is cut short: %w", err)
	}
	head := make([]byte, prefaceHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return preface{}, fmt.Errorf("the preface is cut short: %w", err)
	}
	version, k, length := head[0], kind(head[1]), head[2]
	if version != prefaceVersion {
		return preface{}, fmt.Errorf("preface version %d: this node knows %d only: upgrade the older of the two", version, prefaceVersion)
	}
	if k < kindRaft || k > kindHTTP {
		return preface{}, fmt.Errorf("unknown kind of connection %d: upgrade this node", k)
	}
	target := make([]byte, length)
	if _, err := io.ReadFull(r, target); err != nil {
		return preface{}, fmt.Errorf("the preface is cut short: %w", err)
	}
	return preface{kind: k, target: string(target)}, nil
}

// resembles names the protocol that starts like this, for the log.
func resembles(b []byte) string {
	switch {
	case len(b) == 0:
		return "nothing: it was closed"
	case b[0] == 0x16:
		return "a TLS handshake"
	case bytes.HasPrefix(b, []byte("GET ")), bytes.HasPrefix(b, []byte("POST")), bytes.HasPrefix(b, []byte("HEAD")),
		bytes.HasPrefix(b, []byte("CONN")), bytes.HasPrefix(b, []byte("PUT ")), bytes.HasPrefix(b, []byte("DELE")):
		return "an HTTP request: is the rpc port used as a proxy or API address?"
	case bytes.HasPrefix(b, []byte("PRI ")):
		return "HTTP/2 or gRPC without weir's preface"
	default:
		return fmt.Sprintf("%q", b)
	}
}

// errWrongServer says that a connection was meant for another server.
var errWrongServer = errors.New("the connection is meant for another server")

// checkTarget refuses what is meant for a server that has been replaced by this one.
func (p preface) checkTarget(self string) error {
	if p.target == "" || p.target == self {
		return nil
	}
	return fmt.Errorf("%w: %s, not %s", errWrongServer, p.target, self)
}
