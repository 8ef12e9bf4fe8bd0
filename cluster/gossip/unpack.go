package gossip

import (
	"bufio"
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// memberlist decompresses any message it gets, whole and in memory: 47 kB become 60 MiB and two
// seconds of work. So unencrypted messages are decompressed here, within bounds, and memberlist
// gets them plain. Headers that would make memberlist allocate more than a cluster of maxMembers
// needs are refused too.

// Message types of memberlist, as they are on the wire.
const (
	gossipPushPull = 6
	gossipCompound = 7
	gossipUser     = 8
	gossipPacked   = 9
	gossipCRC      = 12
	gossipLabel    = 244
)

const (
	// maxPacket bounds a decompressed packet. Nodes put at most 1,400 bytes into one.
	maxPacket = 64 << 10
	// maxStream bounds a stream's message, before and after decompression: each member in it takes
	// at most 2 KiB.
	maxStream = maxMembers * 2 << 10
	// maxStreamUser bounds user data on a stream, beside the list of members: a goodbye.
	maxStreamUser = 64 << 10
	lzwLiteral    = 8
)

var (
	errOverpacked = errors.New("a message on the gossip port unpacks to more than any node sends: let only nodes reach the port, or set cluster.gossip_key (`weir keygen` makes one)")
	errNoGossip   = errors.New("a message on the gossip port can't be read: let only nodes reach the port, or set cluster.gossip_key (`weir keygen` makes one)")
)

// checkPacket returns a packet for memberlist, decompressed if need be. An encrypted packet stays
// as it is.
func checkPacket(b []byte) ([]byte, error) {
	label, message, err := cutLabel(b)
	if err != nil {
		return nil, err
	}
	plain := message
	if len(plain) >= 5 && plain[0] == gossipCRC {
		if crc32.ChecksumIEEE(plain[5:]) != binary.BigEndian.Uint32(plain[1:5]) {
			return nil, errNoGossip
		}
		plain = plain[5:]
	}
	if len(plain) == 0 {
		return nil, errNoGossip
	}
	if plain[0] != gossipPacked {
		return b, checkParts(plain)
	}
	if plain, err = unpack(bytes.NewReader(plain[1:]), maxPacket); err != nil {
		return nil, err
	}
	return append(bytes.Clone(label), plain...), checkParts(plain)
}

// checkParts refuses compressed parts inside another message: nodes compress a message once, as a
// whole.
func checkParts(plain []byte) error {
	switch plain[0] {
	case gossipPacked:
		return errOverpacked
	case gossipCompound:
	default:
		return nil
	}
	if len(plain) < 2 || len(plain) < 2+2*int(plain[1]) {
		return errNoGossip
	}
	lengths, parts := plain[2:2+2*int(plain[1])], plain[2+2*int(plain[1]):]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n > len(parts) {
			return errNoGossip
		}
		if n > 0 && (parts[0] == gossipPacked || parts[0] == gossipCompound) {
			return errOverpacked
		}
		parts = parts[n:]
	}
	return nil
}

// cutLabel removes memberlist's label from a message.
func cutLabel(b []byte) (label, message []byte, err error) {
	if len(b) == 0 || b[0] != gossipLabel {
		return nil, b, nil
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return nil, nil, errNoGossip
	}
	return b[:2+int(b[1])], b[2+int(b[1]):], nil
}

// packed is memberlist's frame of a compressed message.
type packed struct {
	Algo uint8
	Buf  []byte
}

// unpack reads a compressed message, which must not be empty, and of at most limit bytes before and
// after.
func unpack(r io.Reader, limit int64) ([]byte, error) {
	var p packed
	if err := codec.NewDecoder(io.LimitReader(r, limit), &codec.MsgpackHandle{}).Decode(&p); err != nil || p.Algo != 0 {
		return nil, errNoGossip
	}
	lzw := lzw.NewReader(bytes.NewReader(p.Buf), lzw.LSB, lzwLiteral)
	defer lzw.Close()
	plain, err := io.ReadAll(io.LimitReader(lzw, limit+1))
	switch {
	case int64(len(plain)) > limit:
		return nil, errOverpacked
	case err != nil || len(plain) == 0:
		return nil, errNoGossip
	}
	return plain, nil
}

// checkedStream is a stream, accepted or dialled, whose beginning is checked before memberlist
// reads it.
type checkedStream struct {
	net.Conn
	r   io.Reader // nil until the first read; there is one reader
	err error
}

// Read implements [net.Conn].
func (c *checkedStream) Read(b []byte) (int, error) {
	if c.r == nil && c.err == nil {
		c.r, c.err = checkStream(c.Conn)
	}
	if c.err != nil {
		return 0, c.err
	}
	return c.r.Read(b)
}

// checkStream reads the beginning of a stream and returns the stream for memberlist. The caller has
// set a deadline.
func checkStream(conn io.Reader) (io.Reader, error) {
	r := bufio.NewReader(conn)
	start, kind, err := readStart(r)
	if err != nil {
		return nil, err
	}
	if kind == gossipPacked {
		_, _ = r.Discard(1) // it has been peeked at
		plain, err := unpack(r, maxStream)
		switch {
		case err != nil:
			return nil, err
		case plain[0] == gossipPacked:
			return nil, errOverpacked
		}
		r, kind = bufio.NewReader(bytes.NewReader(plain)), plain[0]
	}
	var read bytes.Buffer
	if err := checkHeader(io.TeeReader(r, &read), kind); err != nil {
		return nil, err
	}
	return io.MultiReader(bytes.NewReader(start), &read, r), nil
}

// readStart reads a stream's label and the type of the message after it.
func readStart(r *bufio.Reader) (label []byte, kind byte, err error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, 0, err
	}
	if first[0] != gossipLabel {
		return nil, first[0], nil
	}
	if first, err = r.Peek(2); err != nil {
		return nil, 0, err
	}
	label = make([]byte, 2+int(first[1]))
	if _, err := io.ReadFull(r, label); err != nil {
		return nil, 0, err
	}
	if first, err = r.Peek(1); err != nil {
		return nil, 0, err
	}
	return label, first[0], nil
}

// checkHeader checks the sizes that the header of a message claims.
func checkHeader(r io.Reader, kind byte) error {
	if kind != gossipPushPull && kind != gossipUser {
		return nil
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		return errNoGossip
	}
	var header struct{ Nodes, UserStateLen, UserMsgLen int }
	if err := codec.NewDecoder(io.LimitReader(r, maxStreamUser), &codec.MsgpackHandle{}).Decode(&header); err != nil {
		return errNoGossip
	}
	if header.Nodes > maxMembers || header.UserStateLen > maxStreamUser || header.UserMsgLen > maxStreamUser {
		return errOverpacked
	}
	return nil
}
