package connlimit

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func perClient(n int) Config { return Config{Connections: Limits{PerClient: AtMost(n)}} }
func total(n int) Config     { return Config{Connections: Limits{Total: AtMost(n)}} }

// TestAccept: an address has as many as its limit, whatever its ports, and others have their own; a
// higher limit holds at once.
func TestAccept(t *testing.T) {
	l := newLimiter(t, perClient(2))
	first, err := l.Accept(from("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(&conn{remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 99}}); err != nil {
		t.Fatal(err)
	}
	free, err := l.Accept(from("192.0.2.1"))
	e := refusedBy(t, err, ScopeClient)
	if want := "connlimit: client 192.0.2.1 is at its limit of 2 connections"; e.Error() != want {
		t.Errorf("the error is %q; want %q", e, want)
	}
	if one, want := (&Error{Scope: ScopeTotal, Kind: "connections", Limit: 1}), "connlimit: the server is at its limit of 1 connection"; one.Error() != want {
		t.Errorf("the error is %q; want %q", one, want)
	}
	if after, ok := e.RetryAfter(); !ok || after != DefaultRetryAfter {
		t.Errorf("retry after %v, %v; want %v", after, ok, DefaultRetryAfter)
	}
	free() // does nothing
	if _, err := l.Accept(from("192.0.2.2")); err != nil {
		t.Errorf("another address: %v", err)
	}
	first()
	if _, err := l.Accept(from("192.0.2.1")); err != nil {
		t.Errorf("after one was freed: %v", err)
	}
	if err := l.SetConfig(perClient(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(from("192.0.2.1")); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
	if n := l.NumOpen(from("192.0.2.1").RemoteAddr()); n != 3 {
		t.Errorf("NumOpen is %d; want 3", n)
	}
	if got, want := l.Stats().Connections, (Counters{Open: 4, Accepted: 5, Refused: 1}); got != want {
		t.Errorf("counters are %+v; want %+v", got, want)
	}
}

// TestAcceptAtOnce: of 1,000 at once from 100 addresses, exactly as many are let in as there is
// room for. A count that is looked at before it is raised lets more in.
func TestAcceptAtOnce(t *testing.T) {
	l := newLimiter(t, perClient(5))
	var wg sync.WaitGroup
	var refused atomic.Int32
	for i := range 1000 {
		wg.Go(func() {
			if _, err := l.Accept(from(fmt.Sprintf("10.10.10.%d", i%100))); err != nil {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n != 500 {
		t.Errorf("%d were refused; want 500", n)
	}
}

// TestNotFromIP: what has no IP address is one client, whatever the text of its address, under
// Total alone; and a connection that is accepted twice counts twice.
func TestNotFromIP(t *testing.T) {
	l := newLimiter(t, Config{Connections: Limits{PerClient: AtMost(1), Total: AtMost(4)}})
	named := &conn{remote: textAddr("client.example:80")}
	for _, c := range []*conn{named, named, {remote: textAddr("bufconn")}, {remote: &net.UnixAddr{Name: "@"}}} {
		admit(t, l, c)
	}
	if n := l.NumOpen(named.remote); n != 4 {
		t.Errorf("%d are open; want all 4 as one client's", n)
	}
	_, err := l.Accept(named)
	refusedBy(t, err, ScopeTotal)
}

// TestLoweredLimit: a lower limit closes nothing, and counts what is open.
func TestLoweredLimit(t *testing.T) {
	l := newLimiter(t, total(10))
	var slots []Slot
	for range 10 {
		slots = append(slots, admit(t, l, from("192.0.2.1")))
	}
	if err := l.SetConfig(total(4)); err != nil {
		t.Fatal(err)
	}
	for i, s := range slots[:6] {
		if _, err := l.Accept(from("192.0.2.2")); err == nil {
			t.Fatalf("admitted with %d open; the limit is 4", 10-i)
		}
		s.Free()
	}
	slots[6].Free()
	admit(t, l, from("192.0.2.2"))
}

// TestZeroLimiter: it counts, and limits nothing until it gets a Config, whichever method is called
// first, and by however many at once.
func TestZeroLimiter(t *testing.T) {
	addr := from("192.0.2.1").RemoteAddr()
	for name, use := range map[string]func(*Limiter){
		"Accept":      func(l *Limiter) { l.Accept(from("192.0.2.1")) },
		"NumOpen":     func(l *Limiter) { l.NumOpen(addr) },
		"NumRequests": func(l *Limiter) { l.NumRequests(addr) },
		"Stats":       func(l *Limiter) { l.Stats() },
		"Config":      func(l *Limiter) { l.Config() },
		"SetConfig":   func(l *Limiter) { l.SetConfig(Config{}) },
		"ConnState":   func(l *Limiter) { l.ConnState(from("192.0.2.1"), http.StateNew) },
		"Handler":     func(l *Limiter) { request(l.Handler(http.NotFoundHandler()), "192.0.2.1:1") },
		"Listener": func(l *Limiter) {
			inner := listen(t)
			go net.Dial("tcp", inner.Addr().String())
			if _, err := l.Listener(inner).Accept(); err != nil {
				t.Error(err)
			}
		},
		"Guard": func(l *Limiter) {
			srv := &http.Server{}
			l.Guard(srv)
			srv.ConnContext(t.Context(), from("192.0.2.1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var l Limiter
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { use(&l) })
			}
			wg.Wait()
			if got, want := l.Config().IPv6Prefix, DefaultIPv6Prefix; got != want {
				t.Errorf("IPv6Prefix is %d; want the default, %d", got, want)
			}
			admit(t, &l, from("192.0.2.9"))
			if err := l.SetConfig(perClient(1)); err != nil {
				t.Fatal(err)
			}
			_, err := l.Accept(from("192.0.2.9"))
			refusedBy(t, err, ScopeClient)
			if n := l.NumOpen(from("192.0.2.9").RemoteAddr()); n != 1 {
				t.Errorf("%d are open; want 1", n)
			}
		})
	}
}

// TestNoLimit: the zero Limit is no cap, and AtMost(0) blocks. Where 0 means "none", nobody can be
// blocked.
func TestNoLimit(t *testing.T) {
	l := newLimiter(t, Config{})
	for range 10_000 {
		admit(t, l, from("192.0.2.1"))
	}
	for _, test := range []struct {
		config Config
		scope  Scope
		text   string
	}{
		{perClient(0), ScopeClient, "connlimit: client 192.0.2.1 is blocked: its limit is 0 connections"},
		{total(0), ScopeTotal, "connlimit: the server is blocked: its limit is 0 connections"},
		{Config{Connections: Limits{Networks: []Network{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Total: AtMost(0)}}}},
			ScopeNetwork, "connlimit: network 192.0.2.0/24 is blocked: its limit is 0 connections"},
	} {
		_, err := newLimiter(t, test.config).Accept(from("192.0.2.1"))
		e := refusedBy(t, err, test.scope)
		if e.Error() != test.text || !e.Blocked() {
			t.Errorf("%q; want %q", e, test.text)
		}
		if _, ok := e.RetryAfter(); ok {
			t.Errorf("%v: says when to try again; a block does not end", test.scope)
		}
	}
}

// TestNetworks: the longest network governs an address, alone.
func TestNetworks(t *testing.T) {
	l := newLimiter(t, Config{Connections: Limits{PerClient: AtMost(1), Networks: []Network{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), PerClient: AtMost(2), Total: AtMost(3)},
		{Prefix: netip.MustParsePrefix("10.9.0.0/16")},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Total: AtMost(1)},
		{Prefix: netip.MustParsePrefix("2001:db8::1/128"), PerClient: AtMost(0)},
	}}})
	for _, step := range []struct {
		addr string
		want Scope
	}{
		{"192.0.2.1", 0}, {"192.0.2.1", ScopeClient}, // no network
		{"10.0.0.1", 0}, {"10.0.0.1", 0}, {"10.0.0.1", ScopeClient},
		{"10.0.0.2", 0}, {"10.0.0.2", ScopeNetwork}, {"10.0.0.3", ScopeNetwork},
		{"10.9.0.1", 0}, {"10.9.0.1", 0}, {"10.9.0.1", 0}, {"10.9.0.1", 0}, // no cap
		{"2001:db8::1", ScopeClient}, // one address of a /64, blocked
		{"2001:db8::2", 0}, {"2001:db8::2", ScopeNetwork},
	} {
		_, err := l.Accept(from(step.addr))
		if step.want == 0 {
			if err != nil {
				t.Errorf("%s: %v", step.addr, err)
			}
		} else {
			refusedBy(t, err, step.want)
		}
	}
}

// TestWhoIsAClient: all of a /64 is one client, since whoever has one address of it has 2⁶⁴; and no
// more than that is, as where an address is cut at its first colon. The hosts of a link share their
// prefix, and two links the addresses. An IPv4 client is the same over an IPv6 socket.
func TestWhoIsAClient(t *testing.T) {
	zone := func(addr, zone string) net.Conn {
		return &conn{remote: &net.TCPAddr{IP: net.ParseIP(addr), Zone: zone, Port: 1}}
	}
	for _, test := range []struct {
		name   string
		config Config
		a, b   net.Conn
		same   bool
	}{
		{"one /64", Config{}, from("2001:db8::1"), from("2001:db8::ffff:0:0:2"), true},
		{"two /64", Config{}, from("2001:db8::1"), from("2001:db8:0:1::1"), false},
		{"two of IPv6", Config{}, from("2001:db8::1"), from("2001:db9::1"), false},
		{"two of a /64, counted as /128", Config{IPv6Prefix: 128}, from("2001:db8::1"), from("2001:db8::2"), false},
		{"two /64, counted as /56", Config{IPv6Prefix: 56}, from("2001:db8::1"), from("2001:db8:0:ff::1"), true},
		{"a link's hosts", Config{}, zone("fe80::1", "eth0"), zone("fe80::2", "eth0"), false},
		{"two links", Config{}, zone("fe80::1", "eth0"), zone("fe80::1", "eth1"), false},
		{"one of a link", Config{}, zone("fe80::1", "eth0"), zone("fe80::1", "eth0"), true},
		{"IPv4 in IPv6", Config{}, from("::ffff:192.0.2.1"), from("192.0.2.1"), true},
		{"a /24", Config{IPv4Prefix: 24}, from("192.0.2.1"), from("192.0.2.200"), true},
		{"IPv4 and the IPv6 that looks like it", Config{}, from("0.0.0.1"), from("::1"), false},
	} {
		config := test.config
		config.Connections.PerClient = AtMost(1)
		l := newLimiter(t, config)
		admit(t, l, test.a)
		if _, err := l.Accept(test.b); (err != nil) != test.same {
			t.Errorf("%s: %v; want the same client: %v", test.name, err, test.same)
		}
		if n := l.NumOpen(test.a.RemoteAddr()); n != 1 {
			t.Errorf("%s: %d open; want 1", test.name, n)
		}
	}
}

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

// TestAddresses: any form of an address is understood; what has none is under the total alone, and
// nothing panics. Where clients of a Unix socket are one client, five of them are all that it
// takes.
func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"10.10.10.1": "10.10.10.1", "10.10.10.1:80": "10.10.10.1", "[2001:db8::1]:80": "2001:db8::1",
		"2001:db8::1": "2001:db8::1", "[2001:db8::1]": "2001:db8::1", "@": "invalid IP", "": "invalid IP", "pipe": "invalid IP",
	} {
		if got := netAddr(textAddr(text)).String(); got != want {
			t.Errorf("%q is %s; want %s", text, got, want)
		}
	}
	config := perClient(1)
	config.Connections.Total = AtMost(10)
	l := newLimiter(t, config)
	for _, a := range []net.Addr{nil, &net.UnixAddr{Name: "@", Net: "unix"}, &net.UnixAddr{}, textAddr("pipe"), &net.TCPAddr{},
		(*net.TCPAddr)(nil), (*net.UDPAddr)(nil), (*net.IPAddr)(nil), (*net.UnixAddr)(nil)} {
		admit(t, l, &conn{remote: a})
	}
	admit(t, l, &conn{remote: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)}})
	_, err := l.Accept(&conn{})
	refusedBy(t, err, ScopeTotal)
	if n := l.NumOpen(nil); n != 9 {
		t.Errorf("%d without an address are open; want 9", n)
	}
	if n := l.NumOpen(&net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}); n != 1 {
		t.Errorf("%d of an IP address are open; want 1", n)
	}
}

// uncomparable can be no key of a map.
type uncomparable struct {
	conn
	_ []byte
}

// shifting says another address each time, as behind a PROXY header that is read later.
type shifting struct {
	net.Conn
	n byte
}

func (s *shifting) RemoteAddr() net.Addr {
	if s.n++; s.n > 1 {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, s.n)}
}

// TestFree: whatever a connection is, or has become, its slot is freed, once. Where the free func
// asks the connection for its address again, or uses it as a key, one of these leaks or panics.
func TestFree(t *testing.T) {
	twice := from("192.0.2.1")
	for name, conns := range map[string][]net.Conn{
		"two":                   {from("192.0.2.1"), from("192.0.2.1")},
		"the same, twice":       {twice, twice},
		"of no comparable type": {uncomparable{conn: conn{remote: textAddr("192.0.2.1:1")}}, uncomparable{conn: conn{remote: textAddr("192.0.2.1:1")}}},
		"whose address changes": {&shifting{}, &shifting{}},
	} {
		l := newLimiter(t, perClient(2))
		var frees []func()
		for _, c := range conns {
			free, err := l.Accept(c)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			frees = append(frees, free)
		}
		addr := from("192.0.2.1").RemoteAddr()
		if n := l.NumOpen(addr); n != 2 {
			t.Errorf("%s: %d are open; want 2", name, n)
		}
		frees[0]()
		frees[0]()
		if n := l.NumOpen(addr); n != 1 {
			t.Errorf("%s: %d are open after one was freed twice; want 1", name, n)
		}
		frees[1]()
		if n := l.NumOpen(addr); n != 0 {
			t.Errorf("%s: %d are open at the end; want 0", name, n)
		}
	}
}

// TestFreeIsOnceForEver: a func that was called does nothing for ever, also after its memory has
// been used for another connection.
func TestFreeIsOnceForEver(t *testing.T) {
	l := newLimiter(t, Config{})
	var spent []func()
	for range 1000 {
		free, err := l.Accept(from("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		free()
		spent = append(spent, free)
	}
	admit(t, l, from("192.0.2.1"))
	for _, free := range spent {
		free()
	}
	if n := l.NumOpen(from("192.0.2.1").RemoteAddr()); n != 1 {
		t.Errorf("%d are open; want 1", n)
	}
	(Slot{}).Free()
}

// TestAcceptAllocatesNothing: neither for a client that is known nor for one that comes and goes.
func TestAcceptAllocatesNothing(t *testing.T) {
	l := newLimiter(t, Config{Connections: Limits{Total: AtMost(1000), PerClient: AtMost(5),
		Networks: []Network{{netip.MustParsePrefix("192.0.0.0/8"), AtMost(5), AtMost(100)}}}})
	known, other := from("192.0.2.1"), from("2001:db8::1")
	admit(t, l, known)
	serve := func(c net.Conn) {
		free, err := l.Accept(c)
		if err != nil {
			t.Error(err)
			return
		}
		defer free()
	}
	if n := testing.AllocsPerRun(1000, func() { serve(known); serve(other) }); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
}

// TestMemoryOfClients: clients that are gone take none, even after 100,000 were there at once.
func TestMemoryOfClients(t *testing.T) {
	l := newLimiter(t, Config{})
	var slots []Slot
	for _, c := range clients(100_000) {
		slots = append(slots, admit(t, l, c))
	}
	for _, s := range slots {
		s.Free()
	}
	for i := range l.conns.shards {
		sh := &l.conns.shards[i]
		if sh.clients.len() != 0 || len(sh.clients.v4.slots) > 64 || len(sh.clients.others.slots) > 64 || sh.idles > maxIdle || sh.open.next != &sh.open {
			t.Errorf("a shard keeps %d clients, %d places and %d tickets", sh.clients.len(), len(sh.clients.v4.slots)+len(sh.clients.others.slots), sh.idles)
		}
	}
}

// TestValidate: each problem is named, with its remedy, and an invalid configuration changes
// nothing.
func TestValidate(t *testing.T) {
	bad := Config{
		Connections: Limits{Total: AtMost(-1), PerClient: AtMost(1 << 40), Wait: -1, MaxWaiting: -1, Networks: []Network{
			{}, {Prefix: netip.MustParsePrefix("10.0.0.1/8")}, {Prefix: netip.MustParsePrefix("::ffff:1.2.3.4/128")},
			{Prefix: netip.MustParsePrefix("::/0"), PerClient: AtMost(-2)}, {Prefix: netip.MustParsePrefix("::/0")},
		}},
		Requests:   Limits{Total: AtMost(-5)},
		IPv4Prefix: 33, IPv6Prefix: 129, TrustedProxies: []netip.Prefix{{}}, Status: 200, RetryAfter: -1,
		AnswerTimeout: -1, ClusterTimeout: -time.Second, MaxAnswers: -1, ClusterKey: "a\n",
		ForwardedHeader: "X-Forwarded-For:",
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, want := range []string{
		"Connections.Total is AtMost(-1): use 0, which blocks, to 2147483647; leave it out for no cap",
		"Connections.PerClient is AtMost(1099511627776)",
		"Connections.Networks[0].Prefix is not a network",
		"Connections.Networks[1].Prefix is 10.0.0.1/8, which has bits beyond its length: write 10.0.0.0/8",
		"Connections.Networks[2].Prefix is ::ffff:1.2.3.4/128: write it as IPv4",
		"Connections.Networks[3].PerClient is AtMost(-2)", "Connections.Networks[4]: ::/0 is there twice",
		"Connections.Wait is -1ns", "Connections.MaxWaiting is -1", "Requests.Total is AtMost(-5)",
		"IPv4Prefix is 33", "IPv6Prefix is 129", "TrustedProxies[0] is not a network", "Status is 200",
		"RetryAfter is -1ns", "AnswerTimeout is -1ns", "ClusterTimeout is -1s", "MaxAnswers is -1", "without Cluster",
		`ClusterKey is "a\n", with a character that can't be printed: use 1 to 255 printable characters, or none`,
		`ForwardedHeader is "X-Forwarded-For:"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if _, err := New(bad); err == nil {
		t.Error("New takes it")
	}
	l := newLimiter(t, perClient(1))
	if err := l.SetConfig(bad); err == nil {
		t.Error("SetConfig takes it")
	}
	admit(t, l, from("192.0.2.1"))
	_, err = l.Accept(from("192.0.2.1"))
	refusedBy(t, err, ScopeClient)
	if got := l.Config(); got.Connections.PerClient != AtMost(1) || got.IPv6Prefix != 64 {
		t.Errorf("the configuration is %+v", got)
	}
}
