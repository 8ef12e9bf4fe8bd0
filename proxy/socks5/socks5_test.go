package socks5

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// message is a whole message of a client.
type message struct {
	name  string
	bytes string
	check func(t *testing.T, b []byte) (n int, err error)
}

func messages() []message {
	long := strings.Repeat("x", 255)
	return []message{
		{"greeting", "\x05\x01\x00", greeting("\x00")},
		{"greeting with two methods", "\x05\x02\x00\x02", greeting("\x00\x02")},
		{"greeting without a method", "\x05\x00", greeting("")},
		{"greeting with 255 methods", "\x05\xff" + long, greeting(long)},
		{"credentials", "\x01\x03bob\x06secret", credentials("bob", "secret")},
		{"empty credentials", "\x01\x00\x00", credentials("", "")},
		{"longest credentials", "\x01\xff" + long + "\xff" + long, credentials(long, long)},
		{"IPv4", "\x05\x01\x00\x01\x7f\x00\x00\x01\x01\xbb", request(Request{Command: Connect, Addr: netip.MustParseAddr("127.0.0.1"), Port: 443})},
		{"IPv6", "\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50",
			request(Request{Command: Connect, Addr: netip.MustParseAddr("2001:db8::1"), Port: 80})},
		{"mapped IPv4", "\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50",
			request(Request{Command: Connect, Addr: netip.MustParseAddr("::ffff:127.0.0.1"), Port: 80})},
		{"name", "\x05\x01\x00\x03\x0bexample.com\xff\xff", request(Request{Command: Connect, Name: []byte("example.com"), Port: 65535})},
		{"longest name", "\x05\x01\x00\x03\xff" + long + "\x00\x01", request(Request{Command: Connect, Name: []byte(long), Port: 1})},
		{"empty name", "\x05\x01\x00\x03\x00\x00\x50", request(Request{Command: Connect, Name: []byte{}, Port: 80})},
		{"bind", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", request(Request{Command: Bind, Addr: netip.IPv4Unspecified()})},
		{"UDP associate", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", request(Request{Command: UDPAssociate, Addr: netip.IPv4Unspecified()})},
		{"reserved byte", "\x05\x01\x07\x01\x7f\x00\x00\x01\x00\x50", request(Request{Command: Connect, Addr: netip.MustParseAddr("127.0.0.1"), Port: 80})},
	}
}

func greeting(methods string) func(*testing.T, []byte) (int, error) {
	return func(t *testing.T, b []byte) (int, error) {
		offered, n, err := ParseGreeting(b)
		if n > 0 && string(offered) != methods {
			t.Errorf("got methods %q, want %q", offered, methods)
		}
		for m := range 256 {
			if n > 0 && offered.Offer(Method(m)) != (strings.IndexByte(methods, byte(m)) >= 0) {
				t.Errorf("method %#x: Offer says %t", m, offered.Offer(Method(m)))
			}
		}
		return n, err
	}
}

func credentials(name, password string) func(*testing.T, []byte) (int, error) {
	return func(t *testing.T, b []byte) (int, error) {
		c, n, err := ParseCredentials(b)
		if n > 0 && (string(c.Name) != name || string(c.Password) != password) {
			t.Errorf("got %q and %q", c.Name, c.Password)
		}
		return n, err
	}
}

func request(want Request) func(*testing.T, []byte) (int, error) {
	return func(t *testing.T, b []byte) (int, error) {
		r, n, err := ParseRequest(b)
		if n > 0 && (r.Command != want.Command || r.Addr != want.Addr || r.Port != want.Port || !bytes.Equal(r.Name, want.Name)) {
			t.Errorf("got %+v, want %+v", r, want)
		}
		return n, err
	}
}

// Every beginning of a message asks for more bytes, and whatever follows the message is left alone.
func TestMessages(t *testing.T) {
	for _, m := range messages() {
		t.Run(m.name, func(t *testing.T) {
			if len(m.bytes) > MaxMessage {
				t.Errorf("the message has %d bytes, which is more than MaxMessage", len(m.bytes))
			}
			for i := range m.bytes {
				if n, err := m.check(t, []byte(m.bytes[:i])); n != 0 || err != nil {
					t.Fatalf("after %d bytes of %d: length %d, error %v", i, len(m.bytes), n, err)
				}
			}
			for _, more := range []string{"", "\x05", "GET / HTTP/1.1\r\n"} {
				if n, err := m.check(t, []byte(m.bytes+more)); n != len(m.bytes) || err != nil {
					t.Errorf("with %q behind it: length %d, error %v", more, n, err)
				}
			}
		})
	}
}

// A fault shows with the first byte that is wrong.
func TestFaults(t *testing.T) {
	for _, fault := range []struct {
		bytes string
		parse func([]byte) (int, error)
		want  error
	}{
		{"\x04", lengthOf(ParseGreeting), ErrVersion},
		{"G", lengthOf(ParseGreeting), ErrVersion},
		{"\x05", lengthOf(ParseCredentials), ErrCredentialsVersion},
		{"\x01", lengthOf(ParseRequest), ErrVersion},
		{"\x05\x01\x00\x02", lengthOf(ParseRequest), ErrAddressType},
		{"\x05\x01\x00\x00", lengthOf(ParseRequest), ErrAddressType},
		{"\x05\x09\x00\xff", lengthOf(ParseRequest), ErrAddressType},
	} {
		if n, err := fault.parse([]byte(fault.bytes)); n != 0 || !errors.Is(err, fault.want) {
			t.Errorf("%q: length %d, error %v; want %v", fault.bytes, n, err, fault.want)
		}
		before := fault.bytes[:len(fault.bytes)-1]
		if n, err := fault.parse([]byte(before)); n != 0 || err != nil {
			t.Errorf("%q: length %d, error %v before the fault", before, n, err)
		}
	}
}

func lengthOf[M any](parse func([]byte) (M, int, error)) func([]byte) (int, error) {
	return func(b []byte) (int, error) {
		_, n, err := parse(b)
		return n, err
	}
}

func TestAnswers(t *testing.T) {
	before := []byte("before")
	for _, a := range []struct {
		got  []byte
		want string
	}{
		{AppendChoice(before, NoAuthentication), "\x05\x00"},
		{AppendChoice(before, UserPassword), "\x05\x02"},
		{AppendChoice(before, NoneAcceptable), "\x05\xff"},
		{AppendStatus(before, true), "\x01\x00"},
		{AppendStatus(before, false), "\x01\x01"},
		{AppendReply(before, Succeeded, netip.MustParseAddrPort("127.0.0.1:443")), "\x05\x00\x00\x01\x7f\x00\x00\x01\x01\xbb"},
		{AppendReply(before, Succeeded, netip.MustParseAddrPort("[::ffff:127.0.0.1]:80")), "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"},
		{AppendReply(before, Succeeded, netip.MustParseAddrPort("[2001:db8::1]:80")),
			"\x05\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"},
		{AppendReply(before, TTLExpired, netip.AddrPort{}), "\x05\x06\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		if string(a.got) != "before"+a.want {
			t.Errorf("got %q, want %q", a.got, a.want)
		}
	}
}

func TestNothingAllocates(t *testing.T) {
	hello, user := []byte("\x05\x01\x00"), []byte("\x01\x03bob\x06secret")
	ask := []byte("\x05\x01\x00\x03\x0bexample.com\x01\xbb")
	bound, out := netip.MustParseAddrPort("[2001:db8::1]:80"), make([]byte, 0, MaxMessage)
	if n := testing.AllocsPerRun(100, func() {
		offered, _, _ := ParseGreeting(hello)
		_, _, _ = ParseCredentials(user)
		r, _, _ := ParseRequest(ask)
		if !offered.Offer(NoAuthentication) || r.Port != 443 {
			t.Error("the messages were not read")
		}
		out = AppendReply(AppendStatus(AppendChoice(out[:0], UserPassword), true), Succeeded, bound)
	}); n != 0 {
		t.Errorf("a handshake allocates %v times", n)
	}
}

// handshake reads a client's whole stream. pieces are the lengths in which it arrives.
func handshake(b []byte, users bool, next func(had int) int) (out []byte, rest int, err error) {
	had := 0
	parse := func(one func([]byte) (int, error)) error {
		for {
			n, err := one(b[:had])
			if err != nil {
				return err
			}
			if n > 0 {
				b, had = b[n:], had-n
				return nil
			}
			if had == len(b) {
				return errors.New("the stream ended early")
			}
			had = min(len(b), had+max(1, next(had)))
		}
	}
	if err := parse(func(b []byte) (int, error) {
		offered, n, err := ParseGreeting(b)
		if n > 0 {
			out = append(out, offered...)
		}
		return n, err
	}); err != nil {
		return out, len(b), err
	}
	if users {
		if err := parse(func(b []byte) (int, error) {
			c, n, err := ParseCredentials(b)
			out = append(append(out, c.Name...), c.Password...)
			return n, err
		}); err != nil {
			return out, len(b), err
		}
	}
	err = parse(func(b []byte) (int, error) {
		r, n, err := ParseRequest(b)
		if n > 0 {
			out = append(append(out, byte(r.Command), byte(r.Port>>8), byte(r.Port)), r.Name...)
			out = append(out, r.Addr.AsSlice()...)
		}
		return n, err
	})
	return out, len(b), err
}

// However a stream is cut into pieces, it means the same. Nothing is read beyond a message, and
// what was understood is written back as the same bytes.
func FuzzHandshake(f *testing.F) {
	for _, a := range messages() {
		for _, b := range messages() {
			f.Add([]byte(a.bytes+b.bytes), false, uint8(1))
			f.Add([]byte("\x05\x01\x02"+a.bytes+b.bytes), true, uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, users bool, step uint8) {
		given := slices.Clone(data)
		whole, left, err := handshake(data, users, func(int) int { return len(data) })
		pieces, leftInPieces, errInPieces := handshake(data, users, func(int) int { return int(step) })
		if !bytes.Equal(whole, pieces) || left != leftInPieces || (err == nil) != (errInPieces == nil) {
			t.Fatalf("at once: %q, %d bytes left, %v; in pieces of %d: %q, %d bytes left, %v", whole, left, err, step, pieces, leftInPieces, errInPieces)
		}
		if !bytes.Equal(data, given) {
			t.Fatal("the bytes were changed")
		}
		if r, n, err := ParseRequest(data); err == nil && n > 0 {
			checkRequest(t, data[:n], r)
		}
	})
}

// checkRequest compares a request with one written anew.
func checkRequest(t *testing.T, b []byte, r Request) {
	again := []byte{Version, byte(r.Command), b[2], typeName, byte(len(r.Name))}
	switch again = append(again, r.Name...); {
	case r.Addr.Is4():
		again = append([]byte{Version, byte(r.Command), b[2], typeIPv4}, r.Addr.AsSlice()...)
	case r.Addr.Is6():
		again = append([]byte{Version, byte(r.Command), b[2], typeIPv6}, r.Addr.AsSlice()...)
	}
	if again = append(again, byte(r.Port>>8), byte(r.Port)); !bytes.Equal(again, b) {
		t.Errorf("%q was read as %+v", b, r)
	}
}
