package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/proxy/resolve"
)

// slowName is a resolver that knows api.test and never answers for slow.test. It sends to asked for
// each look-up, and to ended for each that was given up.
func slowName(addr netip.Addr) (r resolver, asked, ended chan error) {
	asked, ended = make(chan error, 16), make(chan error, 16)
	return resolver{
		"api.test": []netip.Addr{addr},
		"slow.test": func(ctx context.Context) error {
			asked <- nil
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		},
	}, asked, ended
}

func TestNoSlotIsHeldWhileANameIsResolved(t *testing.T) {
	u := newUpstream(t, echo)
	at := netip.MustParseAddrPort(u.addr)
	res, asked, _ := slowName(at.Addr())
	w := newWorld(t, 1, names(res)) // one slot for all hosts
	slow := w.dial()
	slow.send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
	<-asked
	if n := w.adm.inUse(); n != 0 {
		t.Fatalf("%d slots are held while a name is resolved", n)
	}
	p := w.connect(fmt.Sprintf("api.test:%d", at.Port()))
	p.send("hello")
	p.expect("hello")
}

// A name that can't be resolved is refused for that reason, even if it would get no slot.
func TestNameIsResolvedBeforeASlotIsAskedFor(t *testing.T) {
	w := newWorld(t, 1)
	w.adm.refuseWith(errors.New("must not be asked"))
	p := w.dial()
	p.send("CONNECT nowhere.test:443 HTTP/1.1\r\n\r\n")
	p.refused("CONNECT", 502, "dns_error")
}

// A blocked name is not looked up: it must not reach the name servers either.
func TestBlockedNameIsNotResolved(t *testing.T) {
	res, asked, _ := slowName(netip.Addr{})
	w := newWorld(t, 1, names(res))
	w.adm.blocked.Store(true)
	w.adm.refuseWith(lease.ErrOverLimit)
	for range 2 {
		p := w.dial()
		p.send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
		resp := p.refused("CONNECT", 503, "connection_limit_reached")
		if got := resp.Header.Get("Proxy-Status"); !strings.HasSuffix(got, "; details=\"blocked\"") || resp.Header.Get("Retry-After") != "" {
			t.Errorf("Proxy-Status %q, Retry-After %q", got, resp.Header.Get("Retry-After"))
		}
		if want := "503 weir: slow.test is blocked by a limit of 0 connections"; resp.Status != want {
			t.Errorf("%q, want %q", resp.Status, want)
		}
		w.adm.refuseWith(nil) // the limit is lifted just then
	}
	if len(asked) != 0 {
		t.Error("a blocked name was asked for")
	}
}

// A limit of 0 that only reports refuses nothing, so its names are looked up as others are.
func TestNameUnderAReportedLimitOfZeroIsResolved(t *testing.T) {
	u := httpUpstream(t, func(http.ResponseWriter, *http.Request) {})
	at := netip.MustParseAddrPort(u.addr)
	target := fmt.Sprintf("found.test:%d", at.Port())
	get := func(p *peer) {
		p.send("GET http://" + target + "/ HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
		if resp, _ := p.response("GET"); resp.StatusCode != 200 {
			p.t.Errorf("GET: %s", resp.Status)
		}
	}
	lookedUp := resolver{"found.test": resolve.InOrder(at.Addr())} // never remembered
	for name, ask := range map[string]func(*peer){
		"CONNECT": func(p *peer) {
			p.send("CONNECT " + target + " HTTP/1.1\r\n\r\n")
			p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
			get(p)
		},
		"GET": get,
		"SOCKS5": func(p *peer) {
			p.send(socksHello + socksAsk(target))
			p.expect(socksChosen)
			p.opened()
			get(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 0, names(lookedUp))
			w.adm.blocked.Store(true)
			w.adm.reports.Store(true)
			ask(w.dial())
		})
	}
}

func TestClientThatLeavesWhileItsNameIsResolved(t *testing.T) {
	for name, leave := range map[string]func(*peer){
		"FIN": func(p *peer) { p.Close() },
		"RST": func(p *peer) { p.SetLinger(0); p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			res, asked, ended := slowName(netip.Addr{})
			w := newWorld(t, 1, names(res))
			p := w.dial()
			p.send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
			<-asked
			leave(p)
			if err := <-ended; !errors.Is(err, errClientGone) {
				t.Errorf("the lookup ended with %v", err)
			}
			if _, _, acquired, _ := w.adm.counts(); acquired != 0 {
				t.Error("a slot was taken for a client that has gone")
			}
		})
	}
}

func TestShutdownEndsLookups(t *testing.T) {
	res, asked, ended := slowName(netip.Addr{})
	w := newWorld(t, 1, names(res))
	w.dial().send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
	<-asked
	w.Close()
	if err := <-ended; !errors.Is(err, errShutdown) {
		t.Errorf("the lookup ended with %v", err)
	}
}

// fewAlive returns n addresses of a name; the last is u's, the others answer nothing.
func fewAlive(t *testing.T, u *upstream, n int) (list []netip.Addr, port uint16) {
	t.Helper()
	at := netip.MustParseAddrPort(u.addr)
	for i := 1; i < n; i++ {
		dead := netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
		fullListenerAt(t, netip.AddrPortFrom(dead, at.Port()))
		list = append(list, dead)
	}
	return append(list, at.Addr()), at.Port()
}

// The sixth of six addresses is reached the first time, and at once from then on.
func TestOnlyTheLastAddressLives(t *testing.T) {
	u := newUpstream(t, echo)
	list, port := fewAlive(t, u, 6)
	w := newWorld(t, 1, names(resolver{"six.test": list}), policy(func(p *Policy) { p.DialTimeout = time.Second }))
	target := fmt.Sprintf("six.test:%d", port)
	p := w.connect(target)
	p.CloseWrite()
	p.expectEOF()
	if n := w.failed.n.Load(); n != 5 {
		t.Errorf("%d addresses are remembered as failed, want 5", n)
	}
	began := time.Now()
	w.connect(target)
	if took := time.Since(began); took > 150*time.Millisecond {
		t.Errorf("the second connection took %v", took)
	}
	eventually(t, "the upstream has seen two connections", func() bool { return u.all.Load() == 2 })
}

// Addresses that did not answer at first get the rest of the time, and no more.
func TestAddressesShareTheTimeThatIsLeft(t *testing.T) {
	u := newUpstream(t, echo)
	list, port := fewAlive(t, u, 3)
	w := newWorld(t, 1, names(resolver{"dead.test": list[:2]}), policy(func(p *Policy) { p.DialTimeout = 600 * time.Millisecond }))
	p := w.dial()
	began := time.Now()
	p.send(fmt.Sprintf("CONNECT dead.test:%d HTTP/1.1\r\n\r\n", port))
	p.refused("CONNECT", 504, "connection_timeout")
	if took := time.Since(began); took < 550*time.Millisecond || took > 3*time.Second {
		t.Errorf("gave up after %v", took)
	}
}

func TestProhibitedAddressesTakeNoTime(t *testing.T) {
	u := newUpstream(t, echo)
	alive, port := fewAlive(t, u, 2)
	var list []netip.Addr
	for i := range 30 {
		list = append(list, netip.AddrFrom4([4]byte{169, 254, 7, byte(i)}))
	}
	list = append(alive[:1:1], append(list, alive[1])...)
	w := newWorld(t, 1, names(resolver{"mixed.test": list}), policy(func(p *Policy) { p.DialTimeout = 400 * time.Millisecond }))
	w.connect(fmt.Sprintf("mixed.test:%d", port))
	if n := w.failed.n.Load(); n != 1 {
		t.Errorf("%d addresses are remembered as failed, want 1", n)
	}
}

func TestRefusedAddressIsTriedLast(t *testing.T) {
	u := newUpstream(t, echo)
	at := netip.MustParseAddrPort(u.addr)
	refuses := netip.AddrPortFrom(netip.MustParseAddr("127.0.1.9"), at.Port())
	w := newWorld(t, 1, names(resolver{"two.test": []netip.Addr{refuses.Addr(), at.Addr()}}))
	w.connect(fmt.Sprintf("two.test:%d", at.Port()))
	now := time.Now()
	if !w.failed.has(refuses, now) || w.failed.has(at, now) {
		t.Error("the address that refused is not remembered, or the other is")
	}
	addrs := resolve.InOrder(refuses.Addr(), at.Addr())
	got, _ := w.candidates(nil, w.policy.Load(), &addrs, at.Port(), now)
	if len(got) != 2 || got[0] != at || got[1] != refuses {
		t.Errorf("dialled next: %v", got)
	}
	if got, _ := w.candidates(nil, w.policy.Load(), &addrs, at.Port()+1, now); got[0].Addr() != refuses.Addr() {
		t.Errorf("another port's failure counts: %v", got)
	}
}

// A name that moves while the connection waits for its slot is dialled at its new address.
func TestAnswerThatExpiresInTheQueue(t *testing.T) {
	u := newUpstream(t, echo)
	at := netip.MustParseAddrPort(u.addr)
	res := moving{now: resolve.InOrder(at.Addr())}
	res.before = resolve.InOrder(netip.MustParseAddr("127.0.1.9")).Until(time.Now())
	s := &flow{srv: newWorld(t, 0).Server, since: time.Now()}
	s.srv.resolver = &res
	s.target.Host, s.target.Port = "moved.test", at.Port()
	slot, err := s.srv.admitter.Acquire(t.Context(), s.target, s)
	if err != nil {
		t.Fatal(err)
	}
	s.admitted(slot)
	if err := s.dial(res.before, s.since); err != nil || s.addr != at.Addr() {
		t.Errorf("dialled %v: %v", s.addr, err)
	}
	s.finish(endReset)
}

// moving is a resolver whose name has moved.
type moving struct{ before, now resolve.Addrs }

func (m *moving) Remembered(string) (resolve.Addrs, bool) { return m.now, true }

func (m *moving) Lookup(context.Context, string) (resolve.Addrs, error) { return m.before, nil }

func TestAttemptEnd(t *testing.T) {
	now := time.Unix(100, 0)
	for _, c := range []struct {
		left  time.Duration
		n     int
		brief bool
		want  time.Duration
	}{
		{10 * time.Second, 1, false, 10 * time.Second},
		{10 * time.Second, 6, true, firstAttempt},
		{10 * time.Second, 2, false, 5 * time.Second},
		{3 * time.Second, 6, true, 500 * time.Millisecond},
		{3 * time.Second, 64, true, 3 * time.Second / 64},
	} {
		if got := attemptEnd(now, now.Add(c.left), c.n, c.brief).Sub(now); got != c.want {
			t.Errorf("%v for %d addresses, brief %v: the first has %v, want %v", c.left, c.n, c.brief, got, c.want)
		}
	}
}

func TestFailedAddressesAreBoundedAndForgotten(t *testing.T) {
	var f failedAddrs
	now := time.Unix(100, 0)
	port := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(i))
	}
	for i := range maxFailed + 10 {
		f.add(port(i), now.Add(time.Duration(i)*time.Millisecond))
	}
	if n := f.n.Load(); n != maxFailed || len(f.until) != maxFailed {
		t.Errorf("%d are remembered, %d counted; want %d", len(f.until), n, maxFailed)
	}
	now = now.Add(2 * time.Second)
	if f.has(port(9), now) || !f.has(port(10), now) {
		t.Error("it was not the oldest that went")
	}
	if f.has(port(20), now.Add(failedFor)) {
		t.Error("a failure is remembered for too long")
	}
	f.add(port(1), now.Add(2*failedFor))
	if n := f.n.Load(); n != 1 {
		t.Errorf("%d are remembered though all but one are over", n)
	}
	f.forget(port(1))
	if f.n.Load() != 0 || f.has(port(1), now) {
		t.Error("an address that answered is remembered as failed")
	}
}
