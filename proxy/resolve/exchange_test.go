package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dnsServer is a name server on loopback, over UDP and TCP at one port.
type dnsServer struct {
	at netip.AddrPort

	mu    sync.Mutex
	ports []int // that queries over UDP came from
	ids   []uint16
	tcp   int
	sizes []int // for which answers were asked
}

// serve answers over UDP with what udp sends, and over TCP with what tcp returns. Nil is a plain
// address.
func serve(t *testing.T, udp func(send func(*dns.Msg), asked *dns.Msg), tcp func(*dns.Msg) *dns.Msg) *dnsServer {
	t.Helper()
	s := &dnsServer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = l.Addr().(*net.TCPAddr).AddrPort()
	packets, err := net.ListenPacket("udp", s.at.String())
	if err != nil {
		t.Fatal(err)
	}
	if udp == nil {
		udp = func(send func(*dns.Msg), asked *dns.Msg) { send(address(t, asked)) }
	}
	if tcp == nil {
		tcp = func(asked *dns.Msg) *dns.Msg { return address(t, asked) }
	}
	over := func(w dns.ResponseWriter, asked *dns.Msg) {
		s.mu.Lock()
		s.ids = append(s.ids, asked.Id)
		addr, isUDP := w.RemoteAddr().(*net.UDPAddr)
		if isUDP {
			s.ports = append(s.ports, addr.Port)
		} else {
			s.tcp++
		}
		if o := asked.IsEdns0(); o != nil {
			s.sizes = append(s.sizes, int(o.UDPSize()))
		}
		s.mu.Unlock()
		send := func(m *dns.Msg) {
			if err := w.WriteMsg(m); err != nil {
				t.Error(err)
			}
		}
		if isUDP {
			udp(send, asked)
		} else if m := tcp(asked); m != nil {
			send(m)
		}
	}
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: l}} {
		started := make(chan struct{})
		server.Handler, server.NotifyStartedFunc = dns.HandlerFunc(over), func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(server.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return s
}

// address answers with 10.0.0.1, or with nothing for IPv6.
func address(t *testing.T, asked *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(asked)
	m.RecursionAvailable = true
	if q := asked.Question[0]; q.Qtype == dns.TypeA {
		record, err := dns.NewRR(q.Name + " 60 IN A 10.0.0.1")
		if err != nil {
			t.Error(err)
		}
		m.Answer = append(m.Answer, record)
	}
	return m
}

// exchange asks a server for api.test and returns the addresses, and the error.
func exchange(t *testing.T, to netip.AddrPort, tcp bool, timeout time.Duration) ([]netip.Addr, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	q := dns.Question{Name: "api.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	m, err := ask(ctx, query{to: to, q: q, tcp: tcp, edns: true})
	if err != nil {
		return nil, err
	}
	return read(m, q).addrs, nil
}

const exchangePatience = 10 * time.Second

func TestQueriesAreHardToGuess(t *testing.T) {
	s := serve(t, nil, nil)
	for range 16 {
		if got, err := exchange(t, s.at, false, exchangePatience); err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.ports)
	slices.Sort(s.ids)
	if ports, ids := len(slices.Compact(s.ports)), len(slices.Compact(s.ids)); ports < 8 || ids < 8 {
		t.Errorf("16 queries from %d ports with %d ids", ports, ids)
	}
	if len(s.sizes) != 16 || s.sizes[0] != udpSize {
		t.Errorf("asked for answers of %v bytes, want %d", s.sizes, udpSize)
	}
}

// Answers that can't be to the question are ignored: the right one still counts.
func TestLiesAreIgnored(t *testing.T) {
	for name, lie := range map[string]func(*dns.Msg){
		"another id":          func(m *dns.Msg) { m.Id++ },
		"another name":        func(m *dns.Msg) { m.Question[0].Name = "evil.test." },
		"another type":        func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"no question":         func(m *dns.Msg) { m.Question = nil },
		"two questions":       func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"not a response":      func(m *dns.Msg) { m.Response = false },
		"no answer to a name": func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(send func(*dns.Msg), asked *dns.Msg) {
				false := address(t, asked)
				false.Answer[0].(*dns.A).A = net.IPv4(10, 6, 6, 6)
				false.Question = slices.Clone(false.Question)
				lie(false)
				send(false)
				send(address(t, asked))
			}, nil)
			got, err := exchange(t, s.at, false, exchangePatience)
			if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("10.0.0.1") {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// A datagram from another address or port never reaches the query, and nonsense from the right one
// is ignored.
func TestStrangersAreIgnored(t *testing.T) {
	made := make(chan *dnsServer, 1)
	server := serve(t, func(send func(*dns.Msg), asked *dns.Msg) {
		server := <-made
		server.mu.Lock()
		port := server.ports[len(server.ports)-1]
		server.mu.Unlock()
		m := address(t, asked)
		m.Answer[0].(*dns.A).A = net.IPv4(10, 6, 6, 6)
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		stranger, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Error(err)
			return
		}
		defer stranger.Close()
		stranger.Write(b)
		send(address(t, asked))
	}, nil)
	made <- server
	got, err := exchange(t, server.at, false, exchangePatience)
	if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%v, %v", got, err)
	}
}

func truncated(t *testing.T) func(func(*dns.Msg), *dns.Msg) {
	return func(send func(*dns.Msg), asked *dns.Msg) {
		m := address(t, asked)
		m.Truncated, m.Answer = true, nil
		send(m)
	}
}

func TestTruncatedAnswerIsAskedForOverTCP(t *testing.T) {
	s := serve(t, truncated(t), func(asked *dns.Msg) *dns.Msg {
		m := address(t, asked)
		for range 200 {
			m.Answer = append(m.Answer, m.Answer[0])
		}
		return m
	})
	if got, err := exchange(t, s.at, false, exchangePatience); err != nil || len(got) != maxAddrs {
		t.Errorf("%d addresses, %v", len(got), err)
	}
}

func TestOverTCP(t *testing.T) {
	s := serve(t, nil, nil)
	got, err := exchange(t, s.at, true, exchangePatience)
	s.mu.Lock()
	if err != nil || len(got) != 1 || s.tcp != 1 || len(s.ports) != 0 {
		t.Errorf("%v, %v, %d over TCP", got, err, s.tcp)
	}
	s.mu.Unlock()
	lies := serve(t, truncated(t), func(asked *dns.Msg) *dns.Msg {
		m := address(t, asked)
		m.Id++
		return m
	})
	if got, err := exchange(t, lies.at, true, exchangePatience); err != errMismatch {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := exchange(t, lies.at, false, exchangePatience); err != nil || len(got) != 0 {
		t.Errorf("a truncated answer that TCP can't complete: %v, %v", got, err)
	}
}

func TestSilentAndDeadServers(t *testing.T) {
	s := serve(t, func(func(*dns.Msg), *dns.Msg) {}, func(*dns.Msg) *dns.Msg { return nil })
	for _, tcp := range []bool{false, true} {
		_, err := exchange(t, s.at, tcp, 50*time.Millisecond)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a silent server, TCP %v: %v", tcp, err)
		}
	}
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.LocalAddr().(*net.UDPAddr).AddrPort()
	l.Close()
	began := time.Now()
	if _, err := exchange(t, dead, false, exchangePatience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody at the port: %v after %v", err, time.Since(began))
	}
}

// The whole way, over the network and with the system's own routes.
func TestLookupOverTheNetwork(t *testing.T) {
	s := serve(t, nil, nil)
	dir := t.TempDir()
	write(t, dir+"/resolv.conf", "nameserver 127.0.0.1\nsearch example.com\n")
	write(t, dir+"/hosts", "")
	r := New(Config{TTLMax: time.Minute, Hosts: dir + "/hosts", ResolvConf: dir + "/resolv.conf", Port: s.at.Port()})
	defer r.Close()
	for _, name := range []string{"api.test", "single"} {
		if got, err := r.Lookup(t.Context(), name); err != nil || got.Len() != 1 {
			t.Errorf("%s: %v, %v", name, listed(got), err)
		}
	}
}
