package connlimit

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
)

// addrOf returns the address that conn is from, unmapped, or the zero Addr if it has none. Where a
// wrapper does not know, what it wraps is asked.
func addrOf(conn net.Conn) netip.Addr {
	for range 16 { // as in innermost
		if conn == nil {
			break
		}
		if a := conn.RemoteAddr(); a != nil {
			return netAddr(a)
		}
		conn = inner(conn)
	}
	return netip.Addr{}
}

// knowsAddr reports whether conn surely has its address at hand. RemoteAddr of another one may have
// to read from it first, as that of a wrapper for the PROXY protocol does.
func knowsAddr(conn net.Conn) bool {
	for range 16 {
		switch c := conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			return true
		case *tls.Conn:
			conn = c.NetConn()
		case *Conn:
			conn = c.Conn
		default:
			return false
		}
	}
	return false
}

// inner returns what conn wraps, or nil.
func inner(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case interface{ NetConn() net.Conn }:
		return c.NetConn()
	case interface{ Unwrap() net.Conn }:
		return c.Unwrap()
	}
	return nil
}

// innermost unwraps conn as far as possible.
func innermost(conn net.Conn) net.Conn {
	for range 16 { // a wrapper of itself is a mistake, but not a reason to hang
		in := inner(conn)
		if in == nil {
			break
		}
		conn = in
	}
	return conn
}

// netAddr returns the IP address in a, unmapped, or the zero Addr.
func netAddr(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case nil, *net.UnixAddr:
	case *net.TCPAddr:
		if a != nil {
			return fromIP(a.IP, a.Zone)
		}
	case *net.UDPAddr:
		if a != nil {
			return fromIP(a.IP, a.Zone)
		}
	case *net.IPAddr:
		if a != nil {
			return fromIP(a.IP, a.Zone)
		}
	case interface{ AddrPort() netip.AddrPort }:
		return a.AddrPort().Addr().Unmap()
	default:
		return parseHost(a.String())
	}
	return netip.Addr{}
}

func fromIP(ip net.IP, zone string) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	addr = addr.Unmap()
	if zone != "" && addr.Is6() {
		addr = addr.WithZone(zone)
	}
	return addr
}

// parseHost reads an address as it stands in http.Request.RemoteAddr and in the headers of proxies:
// with or without a port, IPv6 with or without brackets. Anything else is the zero Addr.
func parseHost(s string) netip.Addr {
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap()
	}
	if in, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(in, "]")
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}
