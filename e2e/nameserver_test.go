package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer is a name server at port 53 of a loopback address of its own. It says that there is no
// such name where it has not been told of one.
type nameServer struct {
	addr  string
	ended chan struct{} // closed when the test ends: nobody waits for an answer any more

	mu      sync.Mutex
	names   map[string]nameAnswer
	queries map[string]int // by name
}

// nameAnswer is what a name server answers for a name.
type nameAnswer struct {
	addrs    []string
	noAAAA   bool          // queries for IPv6 get no answer
	patience time.Duration // before an answer
}

// newNameServer starts a name server. It ends with the test.
func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{ended: make(chan struct{}), names: map[string]nameAnswer{}, queries: map[string]int{}}
	packets := listenOnPort53(t)
	s.addr = packets.LocalAddr().(*net.UDPAddr).IP.String()
	started, served := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(s.answer), NotifyStartedFunc: func() { close(started) }}
	go func() { served <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		close(s.ended)
		if err := errors.Join(server.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
	})
	return s
}

// listenOnPort53 takes port 53 of a loopback address that nobody else uses.
func listenOnPort53(t *testing.T) net.PacketConn {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.53.%d.%d:53", rand.IntN(256), 1+rand.IntN(250))
		packets, err := net.ListenPacket("udp", addr)
		if err == nil {
			return packets
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// deadNameServer is a name server that hears and says nothing.
type deadNameServer struct {
	addr    string
	packets net.PacketConn
}

func newDeadNameServer(t *testing.T) *deadNameServer {
	t.Helper()
	packets := listenOnPort53(t)
	t.Cleanup(func() { _ = packets.Close() })
	return &deadNameServer{addr: packets.LocalAddr().(*net.UDPAddr).IP.String(), packets: packets}
}

// asked returns the names that it was asked for, each once, in order.
func (s *deadNameServer) asked(t *testing.T) (names []string) {
	t.Helper()
	if err := s.packets.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, dns.MaxMsgSize); ; {
		size, _, err := s.packets.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return slices.Compact(names)
		}
		var m dns.Msg
		if err != nil || m.Unpack(b[:size]) != nil || len(m.Question) != 1 {
			t.Fatalf("%d bytes that are no question: %v", size, err)
		}
		names = append(names, strings.TrimSuffix(strings.ToLower(m.Question[0].Name), "."))
	}
}

func (s *nameServer) set(name string, n nameAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name] = n
}

// asked is how many queries there were for a name.
func (s *nameServer) asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[name]
}

func (s *nameServer) answer(w dns.ResponseWriter, asked *dns.Msg) {
	q := asked.Question[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	s.mu.Lock()
	n, known := s.names[name]
	if _, parent, ok := strings.Cut(name, "."); !known && ok {
		n, known = s.names["*."+parent]
	} else {
		s.queries[name]++
	}
	s.mu.Unlock()
	if n.noAAAA && q.Qtype == dns.TypeAAAA {
		return
	}
	late := time.NewTimer(n.patience)
	defer late.Stop()
	select {
	case <-late.C:
	case <-s.ended:
		return
	}
	m := new(dns.Msg)
	m.SetReply(asked)
	m.RecursionAvailable = true
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, addr := range n.addrs {
		ip := netip.MustParseAddr(addr)
		h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case ip.Is4() && q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: ip.AsSlice()})
		case ip.Is6() && q.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: ip.AsSlice()})
		}
	}
	_ = w.WriteMsg(m) // the asker may have gone
}

// resolvingBy makes a node resolve by name servers of its own, and by a hosts file with no name but
// localhost.
func resolvingBy(t *testing.T, resolvConf string) func(*node) {
	t.Helper()
	dir := t.TempDir()
	hosts, conf := filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	if err := errors.Join(os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o644), os.WriteFile(conf, []byte(resolvConf), 0o644)); err != nil {
		t.Fatal(err)
	}
	return func(n *node) {
		n.wrapper = []string{"unshare", "--mount", "sh", "-c",
			`mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, hosts, conf}
	}
}

// silentAddress makes a loopback address that answers nothing on a port: the backlog of its
// listener is full.
func silentAddress(t *testing.T, addr string, port int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	at := &syscall.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(addr).As4()}
	if err := errors.Join(syscall.Bind(fd, at), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", addr, port), 50*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatalf("the backlog of %s:%d never filled", addr, port)
}
