package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// testGate counts its checks, each of which takes a second. Every user's password is "right".
func testGate() (g *Gate, compared *atomic.Int64) {
	compared = new(atomic.Int64)
	g = NewGate()
	g.turns = make(chan struct{}, 2)
	g.compare = func(hash, password []byte) error {
		compared.Add(1)
		time.Sleep(time.Second) // virtual
		if string(password) == "right" {
			return nil
		}
		return errors.New("wrong")
	}
	return g, compared
}

// basicField is a Proxy-Authorization's value.
func basicField(userPass string) []byte {
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(userPass)))
}

var testAddr = netip.MustParseAddr("192.0.2.1")

func TestEqualCredentialsShareOneCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := NewRoster([]User{{Name: "ada"}}, nil)
		begun := time.Now()
		for _, userPass := range []string{"ada:right", "ada:wrong"} {
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() {
					name, err := g.Basic(t.Context(), r, basicField(userPass), testAddr)
					if (userPass == "ada:right") != (err == nil) || (err == nil) != (name == "ada") {
						t.Errorf("%s: %q, %v", userPass, name, err)
					}
				})
			}
			wg.Wait()
		}
		if n, took := compared.Load(), time.Since(begun); n != 2 || took != 2*time.Second {
			t.Errorf("%d checks in %v; want 2 in 2s", n, took)
		}
		if _, err := g.Basic(t.Context(), r, basicField("ada:wrong"), testAddr); err != ErrWrong || compared.Load() != 2 {
			t.Errorf("a wrong password is not remembered: %v", err)
		}
	})
}

// A guessing address gets a burst of checks, and then one every few seconds. Remembered users and
// other addresses are not affected.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := NewRoster([]User{{Name: "ada"}, {Name: "bob"}}, nil)
		ask := func(userPass string, from netip.Addr) error {
			_, err := g.Basic(t.Context(), r, basicField(userPass), from)
			return err
		}
		if ask("ada:right", testAddr) != nil {
			t.Fatal("a right password is refused")
		}
		n, refused := 0, 0
		for begun := time.Now(); time.Since(begun) < 10*time.Minute; n++ {
			switch ask(fmt.Sprintf("ada:%d", n), testAddr) {
			case ErrWrong:
			case ErrGuessing:
				refused++
				time.Sleep(100 * time.Millisecond)
			default:
				t.Fatal("another answer")
			}
		}
		checks := int(compared.Load()) - 1
		if most := failureBurst + int(10*time.Minute/failureEvery) + 1; checks > most || checks < most/2 || refused == 0 {
			t.Errorf("%d guesses were checked, %d refused, of %d; want about %d", checks, refused, n, most)
		}
		if ask("bob:right", testAddr) != ErrGuessing {
			t.Error("what is not known from this address is checked all the same")
		}
		if ask("ada:right", testAddr) != nil || ask("bob:right", netip.MustParseAddr("192.0.2.2")) != nil {
			t.Error("others suffer")
		}
		time.Sleep(time.Minute)
		if ask("ada:never", testAddr) != ErrWrong {
			t.Error("failures are not forgotten")
		}
	})
}

// Running and waiting checks are bounded; a request that waits in vain is asked to try again.
func TestChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := NewRoster([]User{{Name: "ada"}}, nil)
		var wg sync.WaitGroup
		var unchecked atomic.Int64
		begun := time.Now()
		for i := range 2 * maxChecking {
			from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			wg.Go(func() {
				_, err := g.Basic(t.Context(), r, basicField(fmt.Sprintf("ada:%d", i)), from)
				if err == ErrBusy {
					unchecked.Add(1)
				} else if err != ErrWrong {
					t.Errorf("refused with %v", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > checkPatience+time.Second {
			t.Errorf("took %v", took)
		}
		if n := compared.Load(); n > 2*int64(checkPatience/time.Second)+2 || n+unchecked.Load() != 2*maxChecking {
			t.Errorf("%d checks, %d refused without one", n, unchecked.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 4 {
			wg.Go(func() { g.Basic(ctx, r, basicField(fmt.Sprintf("ada:late%d", i)), testAddr) })
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if g.waiting.Load() != 0 || len(g.turns) != 0 || len(r.checking) != 0 {
			t.Errorf("left over: %d waiting, %d turns, %d checks", g.waiting.Load(), len(g.turns), len(r.checking))
		}
	})
}

// An unknown name is compared with some user's hash, always the same one, so it takes as long.
func TestUnknownUsersTakeAsLong(t *testing.T) {
	g := NewGate()
	var hashes []string
	g.compare = func(hash, _ []byte) error {
		hashes = append(hashes, string(hash))
		return nil // even if it matches
	}
	r := NewRoster([]User{{"ada", "h1"}, {"bob", "h2"}}, nil)
	for i := range 4 {
		if _, err := g.Basic(t.Context(), r, basicField(fmt.Sprintf("carol:%d", i)), testAddr); err != ErrWrong {
			t.Fatalf("an unknown user is answered %v", err)
		}
	}
	for _, h := range hashes {
		if len(hashes) != 4 || h != hashes[0] || h != "h1" && h != "h2" {
			t.Fatalf("compared with %q", hashes)
		}
	}
}

func TestMemoriesAreBounded(t *testing.T) {
	known := map[mark]string{}
	for i := range 100 {
		makeRoom(known, 10)
		known[mark{byte(i)}] = "x"
	}
	if len(known) != 10 {
		t.Errorf("%d are remembered", len(known))
	}
	var f failures
	now := time.Unix(1000, 0)
	for i := range maxFailing + 100 {
		f.note(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if n := len(f.byAddr); n > maxFailing {
		t.Errorf("%d addresses are remembered", n)
	}
	f = failures{}
	for i := range failureBurst {
		if f.tooMany(netip.MustParseAddr("2001:db8::1"), now) {
			t.Fatalf("too many after %d", i)
		}
		f.note(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+2)), now)
	}
	if !f.tooMany(netip.MustParseAddr("2001:db8::ffff%eth0"), now) || f.tooMany(netip.MustParseAddr("2001:db8:0:1::1"), now) {
		t.Error("a /64 is one client")
	}
	if f.tooMany(netip.MustParseAddr("2001:db8::1"), now.Add(failureEvery)) {
		t.Error("nothing is forgotten")
	}
}

// A name and a password that came by themselves are checked, bounded and remembered as in Basic.
func TestPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := NewRoster([]User{{Name: "ada"}, {Name: "bob"}}, nil)
		ask := func(name, password string) error {
			user, err := g.Password(t.Context(), r, []byte(name), []byte(password), testAddr)
			if err == nil && user != name || err != nil && user != "" {
				t.Errorf("%s: the user is %q, %v", name, user, err)
			}
			return err
		}
		for _, c := range []struct {
			name, password string
			want           error
			checks         int64 // in all, afterwards
		}{
			{"ada", "right", nil, 1},
			{"ada", "right", nil, 1},
			{"ada", "wrong", ErrWrong, 2},
			{"ada", "wrong", ErrWrong, 2},
			{"ada:", "right", ErrWrong, 2},
			{"", "", ErrWrong, 3},
			{"ada", "right\x00", ErrWrong, 3},
			{"ada", "\xff", ErrWrong, 3},
			{"ada\n", "right", ErrWrong, 3},
		} {
			if err := ask(c.name, c.password); err != c.want || compared.Load() != c.checks {
				t.Errorf("%q, %q: %v after %d checks; want %v after %d", c.name, c.password, err, compared.Load(), c.want, c.checks)
			}
		}
		if name, err := g.Basic(t.Context(), r, basicField("ada:right"), testAddr); name != "ada" || err != nil || compared.Load() != 3 {
			t.Errorf("Basic does not know what was right: %q, %v", name, err)
		}
		if _, err := g.Basic(t.Context(), r, basicField("bob:right"), testAddr); err != nil {
			t.Error(err)
		}
		if before := compared.Load(); ask("bob", "right") != nil || compared.Load() != before {
			t.Error("what was right in Basic is not known")
		}
		guesses := 0
		for ask("ada", fmt.Sprint(guesses)) == ErrWrong && guesses < 10*failureBurst {
			guesses++
		}
		if err := ask("ada", "another"); err != ErrGuessing {
			t.Errorf("an address that guesses, after %d guesses: %v", guesses, err)
		}
		if ask("ada", "right") != nil {
			t.Error("a remembered password suffers")
		}
	})
}

// A new roster knows what was right of the users that are in both with the same hash, and of no
// others.
func TestRosterKeepsWhatWasRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		former := NewRoster([]User{{"ada", "h1"}, {"bob", "h2"}, {"eve", "h3"}}, nil)
		ask := func(r *Roster, name string) error {
			_, err := g.Basic(t.Context(), r, basicField(name+":right"), testAddr)
			return err
		}
		for _, name := range []string{"ada", "bob", "eve"} {
			if err := ask(former, name); err != nil {
				t.Fatal(err)
			}
		}
		r := NewRoster([]User{{"new", "h4"}, {"bob", "h5"}, {"ada", "h1"}}, former)
		for _, c := range []struct {
			name   string
			want   error
			checks int64
		}{{"ada", nil, 0}, {"bob", nil, 1}, {"new", nil, 1}, {"eve", ErrWrong, 1}} {
			before := compared.Load()
			if err := ask(r, c.name); err != c.want || compared.Load()-before != c.checks {
				t.Errorf("%s: %v after %d checks; want %v after %d", c.name, err, compared.Load()-before, c.want, c.checks)
			}
		}
	})
}
