package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is the largest answer that is asked for over UDP: what fits into one packet on every
	// usual path.
	udpSize = 1232
	// readSize is room for a server that sends more than it was asked for.
	readSize = 4096
)

// errMismatch is an answer over TCP to something else than what was asked.
var errMismatch = errors.New("the answer is not to the question")

// query is one question to one server.
type query struct {
	to   netip.AddrPort
	q    dns.Question
	tcp  bool // from the start
	edns bool
}

// ask sends a query and returns the answer: over UDP from a fresh port, and over TCP where the
// answer does not fit. A truncated message is returned only where TCP has failed. ctx must have a
// deadline.
func ask(ctx context.Context, query query) (*dns.Msg, error) {
	if query.tcp {
		return query.over(ctx, "tcp")
	}
	m, err := query.over(ctx, "udp")
	if err != nil || !m.Truncated {
		return m, err
	}
	if whole, err := query.over(ctx, "tcp"); err == nil {
		return whole, nil
	}
	return m, nil
}

func (query query) over(ctx context.Context, network string) (*dns.Msg, error) {
	var dialer net.Dialer
	// A connected socket takes datagrams from the server's address and port alone, and the kernel
	// gives each query a random port.
	conn, err := dialer.DialContext(ctx, network, query.to.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	asked := query.message()
	if err := (&dns.Conn{Conn: conn}).WriteMsg(asked); err != nil {
		return nil, err
	}
	if network == "tcp" {
		m, err := (&dns.Conn{Conn: conn}).ReadMsg()
		if err == nil && !answers(m, asked) {
			err = errMismatch
		}
		return m, err
	}
	return readDatagram(conn, asked)
}

func (query query) message() *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{query.q}}
	m.Id = dns.Id()
	m.RecursionDesired = true
	if query.edns {
		m.SetEdns0(udpSize, false)
	}
	return m
}

// readDatagram waits for the answer and ignores everything else: a wrong guess must not end the
// wait.
func readDatagram(conn net.Conn, asked *dns.Msg) (*dns.Msg, error) {
	buf := make([]byte, readSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		// The part of a truncated message that can be read shows that it is truncated.
		if err := m.Unpack(buf[:n]); err != nil && !m.Truncated {
			continue
		}
		if answers(m, asked) {
			return m, nil
		}
	}
}

// answers reports whether m answers asked. A server that understood nothing of the message can't
// repeat the question.
func answers(m, asked *dns.Msg) bool {
	if !m.Response || m.Id != asked.Id || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented
	}
	got, want := m.Question[0], asked.Question[0]
	return len(m.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}
