package gossip

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// pack is a message as memberlist packs it.
func pack(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lzw.NewWriter(&b, lzw.LSB, lzwLiteral)
	_, err := w.Write(plain)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return frame(t, gossipPacked, &packed{Buf: b.Bytes()})
}

// frame is a message as memberlist frames it.
func frame(t testing.TB, kind byte, message any) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(b, &codec.MsgpackHandle{}).Encode(message); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func withCRC(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{gossipCRC}, crc32.ChecksumIEEE(b)), b...)
}

func compound(parts ...[]byte) []byte {
	b := []byte{gossipCompound, byte(len(parts))}
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	}
	return append(b, bytes.Join(parts, nil)...)
}

func TestPacketsAreUnpackedWithinBounds(t *testing.T) {
	label := append([]byte{gossipLabel, 4}, "weir"...)
	ping := []byte("\x00ping")
	bomb := pack(t, bytes.Repeat([]byte{gossipUser}, 60<<20))
	if len(bomb) > 64<<10 {
		t.Fatalf("the bomb does not fit into a datagram: %d bytes", len(bomb))
	}
	damaged := withCRC(ping)
	damaged[2] ^= 1
	for _, c := range []struct {
		name     string
		in, want []byte
		err      error
	}{
		{"plain", ping, ping, nil},
		{"labelled", append(label, ping...), append(label, ping...), nil},
		{"packed", append(label, withCRC(pack(t, ping))...), append(label, ping...), nil},
		{"packed compound", pack(t, compound(ping, ping)), compound(ping, ping), nil},
		{"the most", pack(t, make([]byte, maxPacket)), make([]byte, maxPacket), nil},
		{"one more", pack(t, make([]byte, maxPacket+1)), nil, errOverpacked},
		{"bomb", bomb, nil, errOverpacked},
		{"bomb behind a label and a checksum", append(label, withCRC(bomb[:len(bomb):len(bomb)])...), nil, errOverpacked},
		{"packed in a compound", compound(ping, pack(t, ping)), nil, errOverpacked},
		{"packed twice", pack(t, pack(t, ping)), nil, errOverpacked},
		{"compound in a compound", compound(compound(ping)), nil, errOverpacked},
		{"wrong checksum", damaged, nil, errNoGossip},
		{"no compound", []byte{gossipCompound, 9, 0}, nil, errNoGossip},
		{"parts cut short", []byte{gossipCompound, 1, 0, 9, 1}, nil, errNoGossip},
		{"label cut short", label[:3], nil, errNoGossip},
		{"nothing behind the label", label, nil, errNoGossip},
		{"packed garbage", []byte{gossipPacked, 0xc1}, nil, errNoGossip},
	} {
		got, err := checkPacket(c.in)
		if !errors.Is(err, c.err) || err == nil && !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", c.name, len(got), err, len(c.want), c.err)
		}
	}
}

func TestStreamsAreCheckedBeforeTheyAreRead(t *testing.T) {
	header := func(nodes, state int) []byte {
		return frame(t, gossipPushPull, map[string]any{"Nodes": nodes, "UserStateLen": state, "Join": true})
	}
	label := append([]byte{gossipLabel, 4}, "weir"...)
	small := append(header(3, 0), "three members"...)
	for _, c := range []struct {
		name     string
		in, want []byte
		err      error
	}{
		{"plain", small, small, nil},
		{"labelled", append(label, small...), append(label, small...), nil},
		{"packed", append(label, pack(t, small)...), append(label, small...), nil},
		{"encrypted", []byte("\x0aabcdefgh"), []byte("\x0aabcdefgh"), nil},
		{"bomb", pack(t, bytes.Repeat([]byte{gossipUser}, maxStream+1)), nil, errOverpacked},
		{"packed twice", pack(t, pack(t, small)), nil, errOverpacked},
		{"a million members", header(1<<20, 0), nil, errOverpacked},
		{"a million members, packed", pack(t, header(1<<20, 0)), nil, errOverpacked},
		{"state", header(1, 20<<20), nil, errOverpacked},
		{"message", frame(t, gossipUser, map[string]any{"UserMsgLen": 20 << 20}), nil, errOverpacked},
		{"no header", []byte{gossipPushPull, 0xc1}, nil, errNoGossip},
	} {
		ours, theirs := net.Pipe()
		go func() {
			theirs.SetDeadline(time.Now().Add(time.Minute))
			_, _ = theirs.Write(c.in) // fails where the other end reads no more
			theirs.Close()
		}()
		got, err := io.ReadAll(&checkedStream{Conn: ours})
		ours.Close()
		if !errors.Is(err, c.err) || err == nil && !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
}

// A datagram that would unpack to 60 MiB is refused, with a line that says what to do.
func TestPackedDatagramIsRefused(t *testing.T) {
	n := start(t, "a")
	label := append([]byte{gossipLabel, byte(len(t.Name()))}, t.Name()...)
	bomb := mark(append(label, pack(t, bytes.Repeat([]byte{gossipUser}, 60<<20))...), "")
	conn, err := net.Dial("udp", n.Bound().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, 10*time.Second, "it is refused", func() bool {
		if _, err := conn.Write(bomb); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(n.log.String(), "weir keygen")
	})
}

func FuzzCheckPacket(f *testing.F) {
	f.Add(pack(f, []byte("\x00ping")))
	f.Add(compound([]byte("\x00ping")))
	f.Add(append([]byte{gossipLabel, 1, 'w'}, withCRC([]byte("\x00"))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := checkPacket(b)
		if err == nil && len(plain) > len(b)+maxPacket {
			t.Errorf("%d bytes unpack to %d", len(b), len(plain))
		}
		_, _ = io.Copy(io.Discard, &checkedStream{Conn: bytesConn{Reader: bytes.NewReader(b)}})
	})
}

// bytesConn is a connection that is only read.
type bytesConn struct {
	net.Conn
	io.Reader
}

func (c bytesConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }
