package resolve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
)

func TestDeadServer(t *testing.T) {
	bubble(t, twoServers, func(t *testing.T, r *Resolver, w *wire) {
		var logged bytes.Buffer
		r.log = hclog.New(&hclog.LoggerOptions{Output: &logged, Level: hclog.Info})
		w.set("10.0.0.53", never, 0)
		expect(t, r, "one.test", "10.0.0.1", patience)
		before := w.to("10.0.0.53")
		expect(t, r, "two.test", "10.0.0.1", 0)
		time.Sleep(6 * time.Second)
		expect(t, r, "three.test", "10.0.0.1", 0)
		if n := w.to("10.0.0.53"); n != before {
			t.Errorf("the dead server was asked %d times more", n-before)
		}
		if n := strings.Count(logged.String(), "name server does not answer"); n != 1 || !strings.Contains(logged.String(), "server=10.0.0.53:53") {
			t.Errorf("%d reports in %s", n, &logged)
		}
		// Its return is found out beside another server.
		for i := range 4 {
			time.Sleep(lastFor + time.Second)
			expect(t, r, fmt.Sprintf("probe-%d.test", i), "10.0.0.1", 0)
		}
		if n := w.to("10.0.0.53"); n == before {
			t.Error("the dead server is never asked again")
		}
		if n := strings.Count(logged.String(), "name server does not answer"); n != 1 {
			t.Errorf("%d reports", n)
		}
		w.set("10.0.0.53", 0, 0, "NAME 60 IN A 10.0.0.2")
		time.Sleep(lastFor + time.Second)
		lookup(t, r, "back.test")
		synctest.Wait()
		if n := strings.Count(logged.String(), "name server answers again"); n != 1 {
			t.Errorf("%d reports of its return in %s", n, &logged)
		}
		expect(t, r, "after.test", "10.0.0.2", 0)
	})
}

// A server that fails at once costs nothing, and is asked last from then on.
func TestFailingServer(t *testing.T) {
	for name, s := range map[string]step{
		"refused by the kernel": {err: &net.OpError{Op: "read", Err: errors.New("connection refused")}},
		"SERVFAIL":              {rcode: dns.RcodeServerFailure},
		"REFUSED":               {rcode: dns.RcodeRefused},
		"a referral":            {lines: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, twoServers, func(t *testing.T, r *Resolver, w *wire) {
				w.answers["10.0.0.53"] = s
				if name == "a referral" {
					r.ask = func(ctx context.Context, q query) (*dns.Msg, error) {
						m, err := w.ask(ctx, q)
						if m != nil && len(m.Answer)+len(m.Ns) == 0 {
							m.RecursionAvailable = false
						}
						return m, err
					}
				}
				expect(t, r, "one.test", "10.0.0.1", 0)
				before := w.to("10.0.0.53")
				expect(t, r, "two.test", "10.0.0.1", 0)
				if n := w.to("10.0.0.53"); n != before {
					t.Errorf("it was asked %d times more", n-before)
				}
			})
		})
	}
}

func TestAllServersDead(t *testing.T) {
	bubble(t, twoServers+"options timeout:1 attempts:1\n", func(t *testing.T, r *Resolver, w *wire) {
		w.set("10.0.0.53", never, 0)
		w.set("10.0.0.54", never, 0)
		expect(t, r, "one.test", "timeout", patience+time.Second)
		if n := w.count(); n != 4 {
			t.Errorf("%d queries, want 4", n)
		}
		time.Sleep(errorTTL)
		w.set("10.0.0.54", 0, 0, "NAME 60 IN A 10.0.0.1")
		w.set("10.0.0.53", 0, 0, "NAME 60 IN A 10.0.0.1")
		expect(t, r, "one.test", "10.0.0.1", 0)
	})
}

func TestLostPacket(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", never, 0)
		time.AfterFunc(500*time.Millisecond, func() { w.set("A", 0, 0, "NAME 60 IN A 10.0.0.1") })
		expect(t, r, "api.test", "10.0.0.1", roundPause)
	})
}

func TestRotateOption(t *testing.T) {
	bubble(t, twoServers+"options rotate\n", func(t *testing.T, r *Resolver, w *wire) {
		for i := range 10 {
			lookup(t, r, fmt.Sprintf("name-%d.test", i))
		}
		if a, b := w.to("10.0.0.53"), w.to("10.0.0.54"); a != 10 || b != 10 {
			t.Errorf("%d and %d queries, want 10 each", a, b)
		}
	})
}

// A server that does not understand EDNS is asked without, and from then on.
func TestServerWithoutEDNS(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		var withEDNS atomic.Int32
		r.ask = func(ctx context.Context, q query) (*dns.Msg, error) {
			if q.edns {
				withEDNS.Add(1)
				return message(t, dns.RcodeFormatError), nil
			}
			return w.ask(ctx, q)
		}
		expect(t, r, "one.test", "10.0.0.1", 0)
		before := withEDNS.Load()
		expect(t, r, "two.test", "10.0.0.1", 0)
		if n := withEDNS.Load(); n != before || n == 0 {
			t.Errorf("%d queries with EDNS, then %d", before, n-before)
		}
	})
}
