package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func listed(a Addrs) (texts []string) {
	for i := range a.Len() {
		texts = append(texts, a.At(i).String())
	}
	return texts
}

func everywhere(netip.Addr) bool { return true }

func TestOrderOfAddresses(t *testing.T) {
	onlyFour := func(addr netip.Addr) bool { return addr.Is4() }
	for _, c := range []struct {
		name   string
		in     string
		routed func(netip.Addr) bool
		turn   uint32
		want   string
	}{
		{"as given", "10.0.0.1 10.0.0.2 10.0.0.3", everywhere, 0, "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"rotated", "10.0.0.1 10.0.0.2 10.0.0.3", everywhere, 1, "10.0.0.2 10.0.0.3 10.0.0.1"},
		{"the counter wraps", "10.0.0.1 10.0.0.2", everywhere, 1<<32 - 1, "10.0.0.2 10.0.0.1"},
		{"families take turns", "10.0.0.1 10.0.0.2 2a00::1 2a00::2", everywhere, 0, "2a00::1 10.0.0.1 2a00::2 10.0.0.2"},
		{"one family has more", "10.0.0.1 2a00::1 2a00::2 2a00::3", everywhere, 0, "2a00::1 10.0.0.1 2a00::2 2a00::3"},
		{"the other has more", "10.0.0.1 10.0.0.2 10.0.0.3 2a00::1", everywhere, 1, "2a00::1 10.0.0.2 10.0.0.3 10.0.0.1"},
		{"no route to IPv6", "2a00::1 10.0.0.1 2a00::2", onlyFour, 0, "10.0.0.1 2a00::1 2a00::2"},
		{"unique local is below IPv4", "fd00::1 10.0.0.1", everywhere, 0, "10.0.0.1 fd00::1"},
		{"6to4 and Teredo too", "2002::1 2001::1 10.0.0.1 2001:db8::1", everywhere, 0, "2001:db8::1 10.0.0.1 2002::1 2001::1"},
		{"unique local alone rotates", "fd00::1 fd00::2", everywhere, 1, "fd00::2 fd00::1"},
		{"loopback is native", "127.0.0.1 ::1", everywhere, 0, "::1 127.0.0.1"},
		{"mapped is IPv4", "::ffff:10.0.0.1", everywhere, 0, "10.0.0.1"},
		{"zones", "fe80::1%lo 10.0.0.1", everywhere, 0, "fe80::1%lo 10.0.0.1"},
		{"none", "", everywhere, 5, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := group(addrs(strings.Fields(c.in)...), c.routed)
			if got := strings.Join(listed(Addrs{groups: g, turn: c.turn}), " "); got != c.want {
				t.Errorf("%q in the order %q, want %q", c.in, got, c.want)
			}
		})
	}
	if n := new(Addrs).Len(); n != 0 {
		t.Errorf("the zero value has %d addresses", n)
	}
}

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

func TestParseHosts(t *testing.T) {
	h := parseHosts([]byte("# none of this: 10.0.0.9 x\n127.0.0.1 localhost Api.Example.com. # the end\n" +
		"::1 localhost\n10.0.0.1\tapi api\n\n10.0.0.1 api\nnonsense name\n10.0.0.2\n::ffff:10.0.0.3 mapped\r\n10.0.0.4 last ."))
	for name, want := range map[string]string{
		"localhost": "[127.0.0.1 ::1]", "api.example.com": "[127.0.0.1]", "api": "[10.0.0.1]", "mapped": "[10.0.0.3]",
		"last": "[10.0.0.4]", "x": "[]", "name": "[]", "": "[]",
	} {
		if got := fmt.Sprint(h[name]); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost # x\n::1 a b. C\r\n10.0.0.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, list := range parseHosts(b) {
			if name == "" || len(list) == 0 || len(list) > 2*maxAddrs || strings.ToLower(name) != name {
				t.Fatalf("%q: %v", name, list)
			}
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[127.0.0.1 ::1] 5s 2 false false false"},
		{"nameserver 10.0.0.1\nnameserver fe80::1%eth0\n", "[10.0.0.1 fe80::1%eth0] 5s 2 false false false"},
		{"nameserver 1.1.1.1\nnameserver x\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4", "[1.1.1.1 1.1.1.2 1.1.1.3] 5s 2 false false false"},
		{"search example.com\noptions ndots:5 timeout:1 attempts:3 rotate use-vc edns0", "[127.0.0.1 ::1] 1s 3 true true false"},
		{"options timeout:0 attempts:99 no-aaaa", "[127.0.0.1 ::1] 1s 5 false false true"},
		{"options timeout:9999999999 attempts:-1", "[127.0.0.1 ::1] 30s 1 false false false"},
		{"options timeout: attempts:x timeout", "[127.0.0.1 ::1] 5s 2 false false false"},
		{"; nameserver 10.0.0.1\n# nameserver 10.0.0.2\nnameserver\nnameserver 10.0.0.3 # the third", "[10.0.0.3] 5s 2 false false false"},
	} {
		p := parseResolvConf([]byte(c.text))
		if got := fmt.Sprint(p.nameservers, p.timeout, p.attempts, p.rotate, p.useTCP, p.noAAAA); got != c.want {
			t.Errorf("%q is %s, want %s", c.text, got, c.want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\noptions timeout:3 attempts:2 rotate\n# x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseResolvConf(b)
		if n := len(c.nameservers); n < 1 || n > maxServers || c.timeout < time.Second || c.timeout > maxTimeout || c.attempts < 1 || c.attempts > maxAttempts {
			t.Fatalf("%q: %+v", b, c)
		}
	})
}

func TestOrderOfServers(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b, c := &server{addr: netip.MustParseAddrPort("10.0.0.1:53")}, &server{}, &server{}
	all := []*server{a, b, c}
	check := func(offset int, want ...*server) []*server {
		t.Helper()
		list, probes := order(all, offset, now)
		if !slices.Equal(list, want) {
			t.Errorf("order %v, want %v", list, want)
		}
		return probes
	}
	check(0, a, b, c)
	check(1, b, c, a)
	a.silent(now, now)
	check(0, b, c, a)
	b.outdone(now)
	check(0, c, a, b)
	c.silent(now, now)
	check(0, a, b, c)
	b.answered(now, now.Add(time.Millisecond))
	check(0, b, a, c)

	now = now.Add(lastFor)
	if probes := check(0, b, a, c); !slices.Equal(probes, []*server{a, c}) {
		t.Errorf("probes %v", probes)
	}
	if probes := check(0, b, a, c); len(probes) != 0 {
		t.Errorf("the second lookup probes too: %v", probes)
	}
	a.answered(now, now.Add(2*patience))
	check(0, b, a, c) // it answers, but slowly
}

func TestServerIsReportedOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	var s server
	for i, want := range []news{noNews, newsSilent, noNews} {
		if got := s.silent(now, now); got != want {
			t.Errorf("silence %d: news %d, want %d", i+1, got, want)
		}
	}
	if s.answered(now, now) != newsBack || s.answered(now, now) != noNews {
		t.Error("its return is not reported once")
	}
	s.silent(now, now)
	s.answered(now, now)
	if s.silent(now.Add(time.Second), now) != noNews {
		t.Error("two silences that are not in a row are reported")
	}
	s.answered(now, now.Add(3*time.Second))
	if s.silent(now.Add(2*time.Second), now.Add(7*time.Second)); s.unanswered != 0 {
		t.Error("a server that answers others counts as silent")
	}
}

func TestEnough(t *testing.T) {
	now := time.Unix(1000, 0)
	have := &result{kind: kindAddrs, addrs: addrs("10.0.0.1"), ttl: time.Minute}
	no := &result{kind: kindNoData}
	none := &result{kind: kindNoName}
	failed := &result{kind: kindFailed}
	for _, c := range []struct {
		name      string
		four, six *result
		eager     family // -1: none
		after     time.Duration
		done      bool
		until     time.Duration
	}{
		{"nothing", nil, nil, -1, time.Hour, false, 0},
		{"both", have, have, -1, 0, true, 0},
		{"both without addresses", no, failed, -1, 0, true, 0},
		{"A first", have, nil, -1, 0, false, resolutionDelay},
		{"A first, 50 ms ago", have, nil, -1, resolutionDelay, true, resolutionDelay},
		{"AAAA first", nil, have, -1, 0, false, resolutionDelay},
		{"A, and AAAA is of no use", have, nil, six, 0, true, 0},
		{"AAAA, and A is eagerly left", nil, have, four, 0, true, 0},
		{"no data yet, and AAAA is of no use", no, nil, six, time.Hour, false, 0},
		{"no data, the other may come", no, nil, -1, time.Hour, false, 0},
		{"failed, the other may come", nil, failed, -1, time.Hour, false, 0},
		{"no such name", none, nil, -1, 0, false, noNameDelay},
		{"no such name, long ago", nil, none, -1, noNameDelay, true, noNameDelay},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gathering{results: [families]*result{c.four, c.six}, since: now}
			if c.eager >= 0 {
				g.eager[c.eager] = true
			}
			done, until := g.enough(now.Add(c.after))
			want := time.Time{}
			if c.until > 0 {
				want = now.Add(c.until)
			}
			if done != c.done || !until.Equal(want) {
				t.Errorf("enough: %v, until %v; want %v, %v", done, until, c.done, want)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	a4 := &result{kind: kindAddrs, addrs: addrs("10.0.0.1"), ttl: time.Minute}
	a6 := &result{kind: kindAddrs, addrs: addrs("2a00::1"), ttl: 20 * time.Second}
	zero := &result{kind: kindAddrs, addrs: addrs("10.0.0.1")}
	no := &result{kind: kindNoData, ttl: 2 * time.Second}
	none := &result{kind: kindNoName, ttl: time.Hour}
	failed, silent := &result{kind: kindFailed}, &result{kind: kindSilent}
	for _, c := range []struct {
		name      string
		four, six *result
		shared    bool
		kind      kind
		n         int
		ttl       time.Duration
	}{
		{"both", a4, a6, false, kindAddrs, 2, 20 * time.Second},
		{"one, the other has none", a4, no, false, kindAddrs, 1, time.Minute},
		{"one, the name does not exist for the other", a4, none, false, kindAddrs, 1, time.Minute},
		{"one, the other failed", failed, a6, false, kindAddrs, 1, 20 * time.Second},
		{"one, the other is late", a4, nil, false, kindAddrs, 1, time.Minute},
		{"TTL 0", zero, no, false, kindAddrs, 1, 0},
		{"TTL 0, shared", zero, no, true, kindAddrs, 1, sharedTTL},
		{"no data", no, no, false, kindNoData, 0, 2 * time.Second},
		{"no such name", none, no, false, kindNoName, 0, maxNegativeTTL},
		{"no such name, the other failed", failed, none, false, kindNoName, 0, maxNegativeTTL},
		{"no data and failed", no, failed, false, kindFailed, 0, errorTTL},
		{"no data and silent", silent, no, false, kindSilent, 0, errorTTL},
		{"failed and silent", silent, failed, false, kindSilent, 0, errorTTL},
		{"nothing", nil, nil, false, kindSilent, 0, errorTTL},
		{"no data and nothing", no, nil, false, kindSilent, 0, errorTTL},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gathering{results: [families]*result{c.four, c.six}}
			if o := g.outcome(c.shared); o.kind != c.kind || len(o.addrs) != c.n || o.ttl != c.ttl {
				t.Errorf("kind %d, %v, TTL %v; want %d, %d addresses, %v", o.kind, o.addrs, o.ttl, c.kind, c.n, c.ttl)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	a, b := &server{}, &server{}
	p := plan{servers: []*server{a, b}, attempts: 2}
	for i, want := range []struct {
		s     *server
		pause time.Duration
	}{{a, patience}, {b, roundPause}, {a, roundPause}, {b, roundPause}} {
		if s, pause, ok := p.next(); s != want.s || pause != want.pause || !ok {
			t.Errorf("step %d: %p after which %v, %v", i, s, pause, ok)
		}
	}
	if _, _, ok := p.next(); ok || !p.over() {
		t.Error("it goes on after its last attempt")
	}
	p = plan{servers: []*server{a, b}, attempts: 2}
	p.next()
	p.drop(a)
	if s, _, _ := p.next(); s != b {
		t.Error("after the first has failed the second is not next")
	}
	if p.drop(b); !p.over() {
		t.Error("all have failed, and it goes on")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	put := func(name string, used int64, n int) {
		s := c.shard(name)
		s.mu.Lock()
		defer s.mu.Unlock()
		e := &entry{}
		e.groups[v4] = make([]netip.Addr, n)
		e.used.Store(used)
		s.put(name, e)
	}
	for i := range 2 * maxNames {
		put(fmt.Sprintf("name-%d.test", i), int64(i), 1)
	}
	if n := c.names(); n > maxNames || n < maxNames*9/10 {
		t.Errorf("%d names, want about %d", n, maxNames)
	}
	for i := range 100 { // the latest are still there
		if name := fmt.Sprintf("name-%d.test", 2*maxNames-1-i); c.shard(name).get(name) == nil {
			t.Fatalf("%s is gone though it was used lately", name)
		}
	}
	put("kept.test", 1<<40, 1)
	for i := range 2 * maxNames {
		put(fmt.Sprintf("long-%d.test", i), int64(i), maxAddrs*2)
	}
	bytes := 0
	for i := range c.shards {
		bytes += c.shards[i].bytes
	}
	if bytes > maxCacheBytes || c.shard("kept.test").get("kept.test") == nil {
		t.Errorf("%d bytes; the one used last is there: %v", bytes, c.shard("kept.test").get("kept.test") != nil)
	}
	for name, e := range c.shards[0].entries {
		c.shards[0].bytes -= e.size(name)
	}
	if c.shards[0].bytes != 0 {
		t.Errorf("%d bytes are counted of nothing", c.shards[0].bytes)
	}
}
