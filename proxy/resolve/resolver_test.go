package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Connections to one name share one lookup, whose answer is kept for its TTL.
func TestLookupsAreShared(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 20*time.Millisecond, 0, "NAME 60 IN A 10.0.0.1")
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() { expect(t, r, "api.test", "10.0.0.1", 20*time.Millisecond) })
		}
		wg.Wait()
		if n := w.count(); n != 2 {
			t.Errorf("%d queries for 300 lookups, want 2", n)
		}
		expect(t, r, "api.test", "10.0.0.1", 0)
		time.Sleep(59 * time.Second)
		expect(t, r, "api.test", "10.0.0.1", 0)
		time.Sleep(2 * time.Second)
		expect(t, r, "api.test", "10.0.0.1", 20*time.Millisecond)
		if s := r.Stats(); s.Lookups["ok"] != 301 || s.Lookups["remembered"] != 2 || s.Queries != 4 || s.Names != 1 {
			t.Errorf("counted %+v", s)
		}
	})
}

// A name is asked for as it is, and no other.
func TestNamesAreAbsolute(t *testing.T) {
	bubble(t, oneServer+"search example.com corp\noptions ndots:5\n", func(t *testing.T, r *Resolver, w *wire) {
		w.set("", 0, dns.RcodeNameError, soa)
		w.set("A", 0, dns.RcodeNameError, soa)
		w.set("AAAA", 0, dns.RcodeNameError, soa)
		for _, name := range []string{"api", "api.example", "_srv.api"} {
			expect(t, r, name, "not found", 0)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, q := range w.queries {
			if strings.Contains(q, "example.com.") || strings.Contains(q, "corp.") {
				t.Errorf("asked for %s", q)
			}
		}
		if len(w.queries) != 6 {
			t.Errorf("%d queries, want 6: %v", len(w.queries), w.queries)
		}
	})
}

func TestFixedNames(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		expect(t, r, "fixed.test", "10.9.9.9", 0)
		expect(t, r, "short", "10.9.9.9", 0)
		expect(t, r, "localhost", "::1 127.0.0.1", 0)
		expect(t, r, "db.localhost", "::1 127.0.0.1", 0)
		expect(t, r, "hidden.onion", "not found", 0)
		if n := w.count(); n != 0 {
			t.Errorf("%d queries for them: %v", n, w.queries)
		}
		expect(t, r, "sub.fixed.test", "10.0.0.1", 0)
		if s := r.Stats(); s.Lookups["hosts"] != 4 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestTTLs(t *testing.T) {
	for _, c := range []struct {
		name   string
		ttl    int
		ttlMax time.Duration
		kept   time.Duration
	}{
		{"of the answer", 7, time.Minute, 7 * time.Second},
		{"at most the limit", 3600, time.Minute, time.Minute},
		{"of 0", 0, time.Minute, 0},
		{"under a limit of 0", 60, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
				r.SetTTLMax(c.ttlMax)
				w.set("A", 0, 0, fmt.Sprintf("NAME %d IN A 10.0.0.1", c.ttl))
				lookup(t, r, "api.test")
				if _, known := r.Remembered("api.test"); known != (c.kept > 0) {
					t.Errorf("remembered: %v", known)
				}
				time.Sleep(c.kept - time.Millisecond)
				if _, known := r.Remembered("api.test"); known != (c.kept > 0) {
					t.Errorf("remembered just before %v: %v", c.kept, known)
				}
				time.Sleep(time.Millisecond)
				if _, known := r.Remembered("api.test"); known {
					t.Errorf("remembered after %v", c.kept)
				}
			})
		})
	}
}

// A change of the limit holds for what is remembered already.
func TestLimitOfTTLsChanges(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 0, 0, "NAME 3600 IN A 10.0.0.1")
		lookup(t, r, "api.test")
		time.Sleep(2 * time.Minute)
		if _, known := r.Remembered("api.test"); known {
			t.Error("remembered beyond the limit")
		}
		r.SetTTLMax(10 * time.Minute)
		a, known := r.Remembered("api.test")
		if !known || a.Expired(time.Now()) || !a.Expired(time.Now().Add(8*time.Minute)) {
			t.Error("the higher limit does not hold for it")
		}
	})
}

// An answer with a TTL of 0 that several waited for serves those of the next second.
func TestSharedAnswerWithoutTTL(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 10*time.Millisecond, 0, "NAME 0 IN A 10.0.0.1")
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { lookup(t, r, "busy.test") })
		}
		wg.Wait()
		expect(t, r, "busy.test", "10.0.0.1", 0)
		time.Sleep(sharedTTL)
		expect(t, r, "busy.test", "10.0.0.1", 10*time.Millisecond)
	})
}

func TestAbsenceAndFailuresAreRemembered(t *testing.T) {
	for _, c := range []struct {
		name       string
		four, six  step
		want       string
		took, kept time.Duration
	}{
		{"no such name", step{rcode: dns.RcodeNameError, lines: []string{soa}}, step{rcode: dns.RcodeNameError, lines: []string{soa}}, "not found", 0, 3 * time.Second},
		{"no data", step{lines: []string{soa}}, step{lines: []string{soa}}, "not found", 0, 3 * time.Second},
		{"no such name for a day", step{rcode: dns.RcodeNameError, lines: []string{"test. 86400 IN SOA a. b. 1 2 3 4 86400"}}, step{}, "not found", 0, maxNegativeTTL},
		{"server failure", step{rcode: dns.RcodeServerFailure}, step{rcode: dns.RcodeServerFailure}, "failed", 0, errorTTL},
		{"silence", step{after: never}, step{after: never}, "timeout", 6 * time.Second, errorTTL},
		{"no such name for one family", step{}, step{rcode: dns.RcodeNameError, lines: []string{soa}}, "", 0, 0},
		{"no such name for one, the other withheld", step{after: never}, step{rcode: dns.RcodeNameError, lines: []string{soa}}, "not found", noNameDelay, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
				w.answers["A"], w.answers["AAAA"] = c.four, c.six
				if c.want == "" { // IPv4 has an address
					w.set("A", 0, 0, "NAME 60 IN A 10.0.0.1")
					c.want, c.kept = "10.0.0.1", time.Minute
				}
				expect(t, r, "api.test", c.want, c.took)
				queries := w.count()
				time.Sleep(c.kept - time.Millisecond)
				expect(t, r, "api.test", c.want, 0)
				if n := w.count(); n > queries {
					t.Errorf("%d queries within %v", n-queries, c.kept)
				}
				time.Sleep(time.Millisecond)
				lookup(t, r, "api.test")
				if n := w.count(); n == queries {
					t.Errorf("no query after %v", c.kept)
				}
			})
		})
	}
}

// A family that does not come costs 50 ms, the first time; the next it costs nothing.
func TestWithheldFamily(t *testing.T) {
	for _, family := range []string{"AAAA", "A"} {
		t.Run(family, func(t *testing.T) {
			bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
				want := "10.0.0.1"
				if family == "A" {
					want = "2a00::1"
					w.set("AAAA", 0, 0, "NAME 60 IN AAAA 2a00::1")
				}
				w.set(family, never, 0)
				expect(t, r, "api.test", want, resolutionDelay)
				expect(t, r, "api.test", want, 0)
				time.Sleep(61 * time.Second)
				expect(t, r, "api.test", want, 0) // expired, and not waited for again
				for i := range 3 {
					lookup(t, r, fmt.Sprintf("other-%d.test", i))
					time.Sleep(lateFor + time.Second)
				}
				expect(t, r, "another.test", want, 0) // nor with any name
				time.Sleep(lateFor + time.Second)
				w.set(family, 0, 0, soa)
				lookup(t, r, "answered.test")
				time.Sleep(lateFor + time.Second)
				if n := r.withheld[four].Load() + r.withheld[six].Load(); n != 0 {
					t.Errorf("the server withholds nothing any more, and is held to %d names", n)
				}
			})
		})
	}
}

// A family that is late is there for later connections.
func TestLateFamily(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("AAAA", 200*time.Millisecond, 0, "NAME 30 IN AAAA 2a00::1")
		expect(t, r, "api.test", "10.0.0.1", resolutionDelay)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		expect(t, r, "api.test", "2a00::1 10.0.0.1", 0)
		time.Sleep(30 * time.Second)
		if _, known := r.Remembered("api.test"); known {
			t.Error("the later family's TTL does not count")
		}
	})
}

func TestFamilyWithinTheDelay(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 40*time.Millisecond, 0, "NAME 60 IN A 10.0.0.1")
		w.set("AAAA", 10*time.Millisecond, 0, "NAME 60 IN AAAA 2a00::1")
		expect(t, r, "api.test", "2a00::1 10.0.0.1", 40*time.Millisecond)
	})
}

// Without a way to IPv6 no lookup waits for it, and its addresses come last.
func TestNoWayToIPv6(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		r.routed = func(addr netip.Addr) bool { return addr.Is4() }
		w.set("AAAA", 20*time.Millisecond, 0, "NAME 60 IN AAAA 2a00::1")
		expect(t, r, "api.test", "10.0.0.1", 0)
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		expect(t, r, "api.test", "10.0.0.1 2a00::1", 0)
		w.set("A", 0, 0, soa)
		expect(t, r, "six.test", "2a00::1", 20*time.Millisecond)
	})
}

func TestNoAAAAOption(t *testing.T) {
	bubble(t, oneServer+"options no-aaaa\n", func(t *testing.T, r *Resolver, w *wire) {
		w.set("AAAA", never, 0)
		expect(t, r, "api.test", "10.0.0.1", 0)
		if n := w.count(); n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
	})
}

func TestAddressesRotate(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 0, 0, "NAME 60 IN A 10.0.0.1", "NAME 60 IN A 10.0.0.2")
		for _, want := range []string{"10.0.0.1 10.0.0.2", "10.0.0.2 10.0.0.1", "10.0.0.1 10.0.0.2"} {
			expect(t, r, "api.test", want, 0)
		}
	})
}

// The files are followed. One that can't be read, or is gone for a moment, changes nothing.
func TestFilesAreFollowed(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		hosts, conf := r.files.hostsFile.path, r.files.resolvConf.path
		write(t, hosts, "10.9.9.8 fixed.test # moved\n")
		expect(t, r, "fixed.test", "10.9.9.9", 0) // looked at a moment ago
		time.Sleep(lookEvery)
		expect(t, r, "fixed.test", "10.9.9.8", 0)

		write(t, conf, "nameserver 10.0.0.99\n# a comment\n")
		time.Sleep(lookEvery)
		lookup(t, r, "one.test")
		if w.to("10.0.0.99") == 0 {
			t.Error("the new name server is not asked")
		}
		if err := os.Remove(conf); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		before := w.to("10.0.0.99")
		lookup(t, r, "two.test")
		if w.to("10.0.0.99") == before {
			t.Error("without the file, the name server that was known is not asked")
		}
		if err := os.Mkdir(conf, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		before = w.to("10.0.0.99")
		lookup(t, r, "three.test")
		if w.to("10.0.0.99") == before {
			t.Error("with a file that can't be read, the name server that was known is not asked")
		}
		if err := os.Remove(conf); err != nil {
			t.Fatal(err)
		}
		write(t, conf, "")
		time.Sleep(lookEvery)
		lookup(t, r, "four.test")
		if w.to("127.0.0.1") == 0 {
			t.Error("an empty file does not mean the machine itself")
		}
		if err := os.Remove(hosts); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		expect(t, r, "fixed.test", "10.0.0.1", 0)
	})
}

// A waiter that leaves does not end the lookup of the others, nor one that is under way.
func TestWaitersThatLeave(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", 100*time.Millisecond, 0, "NAME 60 IN A 10.0.0.1")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
		began := time.Now()
		if _, err := r.Lookup(ctx, "api.test"); err != gone || time.Since(began) != 10*time.Millisecond {
			t.Errorf("left after %v: %v", time.Since(began), err)
		}
		time.Sleep(100 * time.Millisecond)
		expect(t, r, "api.test", "10.0.0.1", 0)
		if s := r.Stats(); s.Lookups["abandoned"] != 1 || s.InFlight != 0 {
			t.Errorf("counted %+v", s)
		}
	})
}

// Lookups under way are bounded. Further ones wait, and one that has lost its waiters is never
// begun.
func TestLookupsAreBounded(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		r.places = make(chan struct{}, 1)
		w.set("A", 900*time.Millisecond, 0, "NAME 60 IN A 10.0.0.1")
		go lookup(t, r, "first.test")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := r.Lookup(ctx, "second.test"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beyond the bound: %v", err)
		}
		expect(t, r, "third.test", "10.0.0.1", 1700*time.Millisecond)
		if n := w.count(); n != 4 {
			t.Errorf("%d queries, want 4: %v", n, w.queries)
		}
	})
}

func TestCloseEndsLookups(t *testing.T) {
	bubble(t, oneServer, func(t *testing.T, r *Resolver, w *wire) {
		w.set("A", never, 0)
		w.set("AAAA", never, 0)
		time.AfterFunc(10*time.Millisecond, r.Close)
		expect(t, r, "api.test", "timeout", 10*time.Millisecond)
		if _, err := r.Lookup(t.Context(), "other.test"); err != errClosed {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A remembered name costs no allocation.
func TestRememberedMakesNoGarbage(t *testing.T) {
	r := newResolver(Config{TTLMax: time.Minute})
	w := &wire{t: t, answers: map[string]step{"A": {lines: []string{"NAME 60 IN A 10.0.0.1", "NAME 60 IN A 10.0.0.2"}}, "AAAA": {lines: []string{soa}}}}
	r.ask, r.routed = w.ask, everywhere
	r.lookAtFiles()
	defer r.Close()
	if _, err := r.Lookup(t.Context(), "api.test"); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if a, known := r.Remembered("api.test"); !known || a.Len() != 2 || !a.At(0).IsValid() {
			t.Fatal("not remembered")
		}
	}); n != 0 {
		t.Errorf("%v allocations for a remembered name", n)
	}
}

func BenchmarkRemembered(b *testing.B) {
	r := newResolver(Config{TTLMax: time.Hour})
	w := &wire{t: b, answers: map[string]step{"A": {lines: []string{"NAME 3600 IN A 10.0.0.1"}}, "AAAA": {lines: []string{soa}}}}
	r.ask, r.routed = w.ask, everywhere
	r.lookAtFiles()
	defer r.Close()
	if _, err := r.Lookup(b.Context(), "api.test"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, known := r.Remembered("api.test"); !known {
				b.Fail()
			}
		}
	})
}
