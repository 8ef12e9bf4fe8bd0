//go:build !portable

package sock

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// routeWait bounds the wait for the kernel's answer, which is ready as soon as the question has
// been sent.
const routeWait = time.Second

// Attributes of a route request that package unix lacks (linux/rtnetlink.h).
const (
	rtaIPProto = 0x1b
	rtaDPort   = 0x1d
)

// IsLocal asks the kernel's routing table whether a TCP connection to addr would end on this
// machine. That covers cases that no list of the machine's addresses has: a route of type local (ip
// route add local 10.9.0.0/24 dev lo), and addresses added a moment ago. If the kernel can't
// answer, the address counts as local.
func IsLocal(addr netip.AddrPort) bool {
	kind, err := routeType(addr)
	return err != nil || kind != unix.RTN_UNICAST && kind != unix.RTN_UNREACHABLE
}

// routeType returns the type of the route for a connection to addr; unix.RTN_UNREACHABLE if there
// is none: then connecting fails by itself.
func routeType(addr netip.AddrPort) (kind uint8, err error) {
	request, known := routeRequest(addr)
	if !known {
		return unix.RTN_UNREACHABLE, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(routeWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return 0, err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	var answer [1024]byte // a route takes some 100
	for {
		n, from, err := unix.Recvfrom(fd, answer[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // not from the kernel
		}
		return parseRouteAnswer(answer[:n])
	}
}

// routeRequest builds the request for the route of one TCP connection; it includes the port,
// because routing rules may depend on it. known is false if no interface has the zone's name.
func routeRequest(addr netip.AddrPort) (request []byte, known bool) {
	ip := addr.Addr()
	family := uint8(unix.AF_INET)
	if ip.Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, unix.SizeofNlMsghdr, 128)
	b = append(b, family, uint8(ip.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // struct rtmsg
	b = appendAttribute(b, unix.RTA_DST, ip.AsSlice())
	b = appendAttribute(b, rtaIPProto, []byte{unix.IPPROTO_TCP})
	b = appendAttribute(b, rtaDPort, binary.BigEndian.AppendUint16(nil, addr.Port()))
	if zone := ip.Zone(); zone != "" {
		index, ok := zoneIndex(zone)
		if !ok {
			return nil, false
		}
		b = appendAttribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
	}
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	return b, true
}

func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// errRouteAnswer means that the kernel's answer could not be parsed.
var errRouteAnswer = errors.New("the answer to a route request can't be read")

func parseRouteAnswer(b []byte) (kind uint8, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil || len(messages) == 0 {
		return 0, errRouteAnswer
	}
	m := messages[0]
	switch {
	case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
		switch code := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))); code {
		case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES:
			return unix.RTN_UNREACHABLE, nil
		case 0:
		default:
			return 0, code
		}
	case m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) >= unix.SizeofRtMsg:
		return m.Data[7], nil // rtm_type
	}
	return 0, errRouteAnswer
}
