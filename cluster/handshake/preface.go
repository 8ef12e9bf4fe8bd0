package handshake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// Kind is the purpose of a connection. The numbers are on the wire: only append.
type Kind = clusterpb.Kind

// The kinds. A probe only asks who listens.
const (
	KindRaft   = clusterpb.Kind_KIND_RAFT
	KindGRPC   = clusterpb.Kind_KIND_GRPC
	KindHTTP   = clusterpb.Kind_KIND_HTTP
	KindGossip = clusterpb.Kind_KIND_GOSSIP
	KindProbe  = clusterpb.Kind_KIND_PROBE
)

const (
	prefaceMagic   = "weir"
	prefaceVersion = 2
	maxPreface     = 2048 // bytes of a preface or an answer, without its frame
	maxTarget      = 255
	maxIntroduced  = 255 // bytes of one text in an introduction
	nonceBytes     = 16
)

// AppendPreface appends a preface in its wire format.
func AppendPreface(b []byte, p *clusterpb.Preface) ([]byte, error) {
	if len(p.GetTarget()) > maxTarget {
		return nil, fmt.Errorf("the server id %q is longer than %d bytes", p.GetTarget(), maxTarget)
	}
	return appendFrame(append(b, prefaceMagic+string(rune(prefaceVersion))...), p)
}

// ReadPreface reads a preface and not a byte more. Four wrong bytes are enough to refuse.
func ReadPreface(r io.Reader) (*clusterpb.Preface, error) {
	magic := make([]byte, len(prefaceMagic))
	n, err := io.ReadFull(r, magic)
	if string(magic[:n]) != prefaceMagic[:n] {
		return nil, fmt.Errorf("not a weir node: the connection starts like %s", resembles(magic[:n]))
	}
	if err != nil {
		return nil, fmt.Errorf("the preface is cut short: %w", err)
	}
	version := make([]byte, 1)
	if _, err := io.ReadFull(r, version); err != nil {
		return nil, fmt.Errorf("the preface is cut short: %w", err)
	}
	if version[0] != prefaceVersion {
		return nil, oldPreface(version[0])
	}
	p := &clusterpb.Preface{}
	if err := readFrame(r, p); err != nil {
		return nil, fmt.Errorf("the preface %w", err)
	}
	if p.GetKind() < KindRaft || p.GetKind() > KindProbe {
		return nil, fmt.Errorf("unknown kind of connection %d: upgrade this node", p.GetKind())
	}
	if len(p.GetTarget()) > maxTarget || !plainText(p.GetTarget()) {
		return nil, errors.New("the preface names an impossible server id")
	}
	return p, introduces(p.GetFrom())
}

// oldPreface refuses a node of another version.
func oldPreface(version byte) error {
	return &Misfit{
		What: fmt.Sprintf("the other node opens connections by version %d of the protocol, and this one knows only version %d", version, prefaceVersion),
		Do:   "stop both, upgrade the older one and start them again",
	}
}

// appendAnswer appends an answer in its wire format, after the greeting.
func appendAnswer(b []byte, a *clusterpb.Answer) ([]byte, error) {
	return appendFrame(append(b, Greeting...), a)
}

// readAnswer reads an answer and not a byte more.
func readAnswer(r io.Reader) (*clusterpb.Answer, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		return nil, fmt.Errorf("the connection has ended without an answer: %w", err)
	}
	if first[0] == TLSAlert { // no answer begins with this byte
		return nil, errPeerWantsTLS
	}
	greeting := make([]byte, len(Greeting))
	greeting[0] = first[0]
	if _, err := io.ReadFull(r, greeting[1:]); err != nil || string(greeting) != Greeting {
		return nil, errors.New("the other end does not answer as a weir node of this version: check the address, and upgrade the older of the two")
	}
	a := &clusterpb.Answer{}
	if err := readFrame(r, a); err != nil {
		return nil, fmt.Errorf("the answer %w", err)
	}
	if len(a.GetNonce()) != nonceBytes {
		return nil, fmt.Errorf("the answer carries a nonce of %d bytes instead of %d", len(a.GetNonce()), nonceBytes)
	}
	return a, introduces(a.GetFrom())
}

// appendFrame appends a message with its length before it.
func appendFrame(b []byte, m proto.Message) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxPreface {
		return nil, fmt.Errorf("%d bytes to open a connection with, more than %d", len(raw), maxPreface)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...), nil
}

// readFrame reads a message that appendFrame wrote. Callers put the message's name in front of its
// errors.
func readFrame(r io.Reader, m proto.Message) error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("is cut short: %w", err)
	}
	n := binary.BigEndian.Uint16(head)
	if n > maxPreface {
		return fmt.Errorf("has %d bytes, more than %d", n, maxPreface)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return fmt.Errorf("is cut short: %w", err)
	}
	if err := proto.Unmarshal(raw, m); err != nil {
		return fmt.Errorf("can't be read: %w", err)
	}
	return nil
}

// introduces checks the texts of another node before they are logged.
func introduces(i *clusterpb.Introduction) error {
	for _, text := range []string{i.GetNode(), i.GetCluster(), i.GetGossipAddr()} {
		if len(text) > maxIntroduced || !plainText(text) {
			return errors.New("the other node introduces itself with a text that is too long, or can't be printed")
		}
	}
	return nil
}

func plainText(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// resembles names the protocol that begins with these bytes, for the log.
func resembles(b []byte) string {
	switch {
	case len(b) == 0:
		return "nothing: it was closed"
	case b[0] == TLSHandshake:
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

// ErrWrongServer says that a connection was meant for another server.
var ErrWrongServer = errors.New("the connection is meant for another server")

// ErrProbed ends a connection that was opened only to learn who listens.
var ErrProbed = errors.New("it only asked who listens")
