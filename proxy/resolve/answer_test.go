package resolve

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// message makes the answer to a question out of lines of a zone file.
func message(t testing.TB, rcode int, answer ...string) *dns.Msg {
	t.Helper()
	m := &dns.Msg{}
	m.Response, m.RecursionAvailable, m.Rcode = true, true, rcode
	for _, line := range answer {
		record, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		if record.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, record)
			continue
		}
		m.Answer = append(m.Answer, record)
	}
	return m
}

const soa = "example.com. 30 IN SOA ns.example.com. root.example.com. 1 2 3 4 3"

func TestRead(t *testing.T) {
	var long []string
	for i := range maxChain {
		long = append(long, fmt.Sprintf("a%d.example.com. 60 IN CNAME a%d.example.com.", i, i+1))
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("a0.example.com. 60 IN A 10.0.0.%d", i))
	}
	for _, c := range []struct {
		name   string
		rcode  int
		answer []string
		change func(*dns.Msg)
		kind   kind
		n      int
		ttl    time.Duration
	}{
		{"an address", 0, []string{"a0.example.com. 60 IN A 10.0.0.1"}, nil, kindAddrs, 1, time.Minute},
		{"the least TTL", 0, []string{"a0.example.com. 60 IN A 10.0.0.1", "a0.example.com. 20 IN A 10.0.0.2"}, nil, kindAddrs, 2, 20 * time.Second},
		{"another case", 0, []string{"A0.EXAMPLE.com. 60 IN A 10.0.0.1"}, nil, kindAddrs, 1, time.Minute},
		{"an alias", 0, []string{"a0.example.com. 5 IN CNAME b.example.com.", "b.example.com. 60 IN A 10.0.0.1"}, nil, kindAddrs, 1, 5 * time.Second},
		{"aliases in any order", 0, []string{"b.example.com. 60 IN A 10.0.0.1", "c.example.com. 7 IN CNAME b.example.com.", "a0.example.com. 9 IN CNAME C.example.com."}, nil, kindAddrs, 1, 7 * time.Second},
		{"a loop", 0, []string{"a0.example.com. 5 IN CNAME b.example.com.", "b.example.com. 5 IN CNAME a0.example.com."}, nil, kindFailed, 0, 0},
		{"an alias of itself", 0, []string{"a0.example.com. 5 IN CNAME a0.example.com."}, nil, kindFailed, 0, 0},
		{"a chain that is too long", 0, append(long, fmt.Sprintf("a%d.example.com. 60 IN A 10.0.0.1", maxChain)), nil, kindFailed, 0, 0},
		{"an alias without an address", 0, []string{"a0.example.com. 2 IN CNAME b.example.com.", soa}, nil, kindNoData, 0, 2 * time.Second},
		{"another name's address", 0, []string{"evil.example.com. 60 IN A 10.0.0.1", soa}, nil, kindNoData, 0, 3 * time.Second},
		{"another class", 0, []string{"a0.example.com. 60 CH A 10.0.0.1", soa}, nil, kindNoData, 0, 3 * time.Second},
		{"the other family", 0, []string{"a0.example.com. 60 IN AAAA 2001:db8::1", soa}, nil, kindNoData, 0, 3 * time.Second},
		{"no data", 0, []string{soa}, nil, kindNoData, 0, 3 * time.Second},
		{"no data and no SOA", 0, nil, nil, kindNoData, 0, 0},
		{"a referral", 0, nil, func(m *dns.Msg) { m.RecursionAvailable = false }, kindFailed, 0, 0},
		{"no such name", dns.RcodeNameError, []string{soa}, nil, kindNoName, 0, 3 * time.Second},
		{"no such name, no SOA", dns.RcodeNameError, nil, nil, kindNoName, 0, 0},
		{"server failure", dns.RcodeServerFailure, nil, nil, kindFailed, 0, 0},
		{"refused", dns.RcodeRefused, nil, nil, kindFailed, 0, 0},
		{"truncated, with an address", 0, []string{"a0.example.com. 60 IN A 10.0.0.1"}, func(m *dns.Msg) { m.Truncated = true }, kindAddrs, 1, time.Minute},
		{"truncated", 0, nil, func(m *dns.Msg) { m.Truncated = true }, kindFailed, 0, 0},
		{"a TTL beyond its range", 0, []string{"a0.example.com. 4294967295 IN A 10.0.0.1"}, nil, kindAddrs, 1, 0},
		{"many addresses", 0, many, nil, kindAddrs, maxAddrs, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := message(t, c.rcode, c.answer...)
			if c.change != nil {
				c.change(m)
			}
			r := read(m, dns.Question{Name: "a0.example.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
			if r.kind != c.kind || len(r.addrs) != c.n || c.kind != kindFailed && r.ttl != c.ttl {
				t.Errorf("kind %d, addresses %v, TTL %v; want %d, %d of them, %v", r.kind, r.addrs, r.ttl, c.kind, c.n, c.ttl)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, m := range []*dns.Msg{
		message(f, 0, "a.test. 60 IN CNAME b.test.", "b.test. 5 IN A 10.0.0.1", "b.test. 5 IN AAAA 2001:db8::1"),
		message(f, 0, "a.test. 60 IN CNAME a.test."), message(f, dns.RcodeNameError, soa),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, isSix bool) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		q := dns.Question{Name: "a.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
		if isSix {
			q.Qtype = dns.TypeAAAA
		}
		r := read(m, q)
		if (r.kind == kindAddrs) != (len(r.addrs) > 0) || len(r.addrs) > maxAddrs || r.ttl < 0 {
			t.Fatalf("%+v from %v", r, m)
		}
		if r.kind == kindAddrs && m.Rcode != dns.RcodeSuccess {
			t.Fatalf("addresses out of an error: %v", m)
		}
	})
}
