// Package socks5 reads and writes the messages of SOCKS5 (RFC 1928) and of its sub-negotiation of a
// user name and a password (RFC 1929), from the server's side. It is pure: bytes in, messages out,
// no socket and no state.
//
// The client speaks first, and the two take turns:
//
//	client                    server
//	greeting: methods    ──►
//	                     ◄──  choice of a method           [AppendChoice]
//	credentials          ──►                               only if the choice was UserPassword
//	                     ◄──  their status                 [AppendStatus]
//	request              ──►
//	                     ◄──  reply                        [AppendReply]
//
// A client that knows the server may send several messages at once, and bytes for the tunnel behind
// them. So each Parse function reads one message from the beginning of the bytes in hand, says how
// long it is, and leaves the rest alone. If the message is not complete, its length is 0; a fault
// is reported as soon as it can be seen. What a message holds points into the bytes given.
package socks5

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Version is the first byte of a greeting and of a request.
const Version = 0x05

// credentialsVersion is the first byte of the sub-negotiation's messages (RFC 1929 §2).
const credentialsVersion = 0x01

// MaxMessage is the longest message, in bytes: credentials with a name and a password of 255 bytes
// each.
const MaxMessage = 3 + 255 + 255

// Method is a way to authenticate (RFC 1928 §3).
type Method byte

// The methods of this package.
const (
	NoAuthentication Method = 0x00
	UserPassword     Method = 0x02
	NoneAcceptable   Method = 0xff // the server's choice only; the client must close
)

// Command is what a request asks for (RFC 1928 §4).
type Command byte

// The commands.
const (
	Connect      Command = 0x01
	Bind         Command = 0x02
	UDPAssociate Command = 0x03
)

// The types of address (RFC 1928 §5).
const (
	typeIPv4 = 0x01
	typeName = 0x03
	typeIPv6 = 0x04
)

// Reply is the server's answer to a request (RFC 1928 §6).
type Reply byte

// The replies.
const (
	Succeeded               Reply = 0x00
	GeneralFailure          Reply = 0x01
	NotAllowed              Reply = 0x02 // by the server's rules
	NetworkUnreachable      Reply = 0x03
	HostUnreachable         Reply = 0x04
	ConnectionRefused       Reply = 0x05
	TTLExpired              Reply = 0x06
	CommandNotSupported     Reply = 0x07
	AddressTypeNotSupported Reply = 0x08
)

// Faults of a client.
var (
	// ErrVersion means that a greeting or a request is of another version of SOCKS.
	ErrVersion = errors.New("not a message of SOCKS5")
	// ErrCredentialsVersion means that the credentials are not those of RFC 1929.
	ErrCredentialsVersion = errors.New("not a user name and a password as RFC 1929 has them")
	// ErrAddressType means that the request's address is neither a name nor an IP address. How long
	// the request is can't be known.
	ErrAddressType = errors.New("unknown address type")
)

// Methods are what a client offers, in no order.
type Methods []byte

// Offer reports whether the client offers m.
func (offered Methods) Offer(m Method) bool {
	for _, o := range offered {
		if Method(o) == m {
			return true
		}
	}
	return false
}

// ParseGreeting reads the client's first message, which may offer no method at all (RFC 1928 §3). n
// is its length, or 0 if more bytes are needed. The error is ErrVersion.
func ParseGreeting(b []byte) (offered Methods, n int, err error) {
	if len(b) > 0 && b[0] != Version {
		return nil, 0, ErrVersion
	}
	offered, n = cutShort(b, 1)
	return offered, n, nil
}

// AppendChoice appends the server's answer to a greeting.
func AppendChoice(dst []byte, m Method) []byte { return append(dst, Version, byte(m)) }

// Credentials are a user's. Both may be empty, and may hold any bytes.
type Credentials struct {
	Name, Password []byte
}

// ParseCredentials reads a name and a password (RFC 1929 §2). n is the message's length, or 0 if
// more bytes are needed. The error is ErrCredentialsVersion; the answer is the status of wrong
// credentials.
func ParseCredentials(b []byte) (c Credentials, n int, err error) {
	if len(b) > 0 && b[0] != credentialsVersion {
		return c, 0, ErrCredentialsVersion
	}
	name, end := cutShort(b, 1)
	if end == 0 {
		return c, 0, nil
	}
	password, n := cutShort(b, end)
	if n == 0 {
		return c, 0, nil
	}
	return Credentials{name, password}, n, nil
}

// AppendStatus appends the server's answer to credentials. After wrong ones the server must close
// (RFC 1929 §2).
func AppendStatus(dst []byte, right bool) []byte {
	if right {
		return append(dst, credentialsVersion, 0)
	}
	return append(dst, credentialsVersion, 1)
}

// Request is what a client asks for.
type Request struct {
	Command Command // any byte
	Name    []byte  // the destination if Addr is not valid: 0 to 255 bytes, any bytes
	Addr    netip.Addr
	Port    uint16 // 0 included
}

// ParseRequest reads a request (RFC 1928 §4), whatever its command; the reserved byte may have any
// value. n is the message's length, or 0 if more bytes are needed. The error is ErrVersion or
// ErrAddressType.
func ParseRequest(b []byte) (r Request, n int, err error) {
	const fixed = 4 // version, command, reserved, type of the address
	if len(b) > 0 && b[0] != Version {
		return r, 0, ErrVersion
	}
	if len(b) < fixed {
		return r, 0, nil
	}
	end := 0 // of the address
	switch b[3] {
	case typeIPv4:
		if end = fixed + 4; len(b) >= end {
			r.Addr = netip.AddrFrom4([4]byte(b[fixed:]))
		}
	case typeIPv6:
		if end = fixed + 16; len(b) >= end {
			r.Addr = netip.AddrFrom16([16]byte(b[fixed:]))
		}
	case typeName:
		if r.Name, end = cutShort(b, fixed); end == 0 {
			return Request{}, 0, nil
		}
	default:
		return r, 0, ErrAddressType
	}
	if len(b) < end+2 {
		return Request{}, 0, nil
	}
	r.Command, r.Port = Command(b[1]), binary.BigEndian.Uint16(b[end:])
	return r, end + 2, nil
}

// AppendReply appends the answer to a request. bound is the address that the server's connection to
// the destination has on the server's side; if it is not valid, as in a failure, it is written as
// 0.0.0.0:0.
func AppendReply(dst []byte, r Reply, bound netip.AddrPort) []byte {
	dst = append(dst, Version, byte(r), 0)
	switch addr := bound.Addr().Unmap(); {
	case addr.Is4():
		four := addr.As4()
		dst = append(append(dst, typeIPv4), four[:]...)
	case addr.Is6():
		sixteen := addr.As16()
		dst = append(append(dst, typeIPv6), sixteen[:]...)
	default:
		dst = append(dst, typeIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(dst, bound.Port())
}

// cutShort returns the bytes whose number stands in the byte at i, and where they end; 0 if they
// are not all there.
func cutShort(b []byte, i int) (part []byte, end int) {
	if len(b) <= i {
		return nil, 0
	}
	end = i + 1 + int(b[i])
	if len(b) < end {
		return nil, 0
	}
	return b[i+1 : end : end], end
}
