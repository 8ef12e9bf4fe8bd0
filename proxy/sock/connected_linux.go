//go:build !portable

package sock

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
)

// looks is how often the list of sockets is read before a socket counts as absent. The kernel
// writes the list a page at a time, and finds its place again by counting, so a socket may be left
// out while others go. A higher value makes each "no" that much dearer.
const looks = 2

// socketLists are the files that list the sockets of this network namespace. It is the thread's: a
// process whose first thread has moved to another namespace would list that one's.
var socketLists = [...]string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}

// Connected reports whether this machine has a socket that is connected from local to remote, or
// was a moment ago. known is false where the system does not tell.
//
// It reads the list of all sockets, which takes about a microsecond for each, and reads it again
// before it says no: it is meant for rare questions.
func Connected(local, remote netip.AddrPort) (connected, known bool) {
	return lookAgain(func(file string) (bool, error) { return listsSocket(file, local, remote) })
}

// lookAgain looks in all files until the socket is found, as often as looks says.
func lookAgain(look func(file string) (found bool, err error)) (connected, known bool) {
	for range looks {
		if connected, known = lookOnce(look); connected || !known {
			break
		}
	}
	return connected, known
}

func lookOnce(look func(file string) (found bool, err error)) (connected, known bool) {
	for _, file := range socketLists {
		found, err := look(file)
		switch {
		case found:
			return true, true
		case os.IsNotExist(err): // a kernel without IPv6
		case err != nil:
			return false, false
		}
	}
	return false, true
}

// listsSocket looks for a socket in a file of the form of /proc/net/tcp (proc_pid_net(5)).
func listsSocket(file string, local, remote netip.AddrPort) (found bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	wanted := [...][]byte{
		fmt.Appendf(nil, ": %s %s ", procAddr(local), procAddr(remote)),
		fmt.Appendf(nil, ": %s %s ", procMapped(local), procMapped(remote)),
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		for _, w := range wanted {
			if bytes.Contains(lines.Bytes(), w) {
				return true, nil
			}
		}
	}
	return false, lines.Err()
}

// procAddr writes an address as /proc/net/tcp does: words of 32 bits as the machine has them in
// memory, and the port.
func procAddr(a netip.AddrPort) string {
	var s []byte
	for b := a.Addr().AsSlice(); len(b) > 0; b = b[4:] {
		s = fmt.Appendf(s, "%08X", binary.NativeEndian.Uint32(b))
	}
	return fmt.Sprintf("%s:%04X", s, a.Port())
}

// procMapped is procAddr for a socket of IPv6 that is connected over IPv4.
func procMapped(a netip.AddrPort) string {
	return procAddr(netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port()))
}
