package connlimit

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The tables count as a map does, whatever comes and goes: IPv4 and IPv6 clients, prefixes of one
// address, and those without an address.
func TestCounts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := compile(Limits{}, &Config{}, "connections")
	keys := []clientKey{{}}
	for range 300 {
		four := netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(2)), byte(rng.Uint32())})
		six := netip.AddrFrom16([16]byte{0x20, 1, 7: byte(rng.Uint32()), 15: byte(rng.Uint32())})
		keys = append(keys, r.key(four, 32), r.key(four, rng.IntN(33)), r.key(six, 128), r.key(six, rng.IntN(129)))
	}
	keys = append(keys, r.key(netip.MustParseAddr("fe80::1%eth0"), 64), r.key(netip.MustParseAddr("255.255.255.255"), 32), r.key(netip.MustParseAddr("::"), 128))
	var c counts
	model := map[clientKey]int{}
	for step := range 60_000 {
		key := keys[rng.IntN(len(keys))]
		fills := step/6000%2 == 0 // the tables grow and shrink in turns
		switch n := model[key]; {
		case n == 0 || rng.IntN(5) < 2 == !fills:
			if n == 0 && !fills {
				continue
			}
			c.enter(r, r.hash(key), key)
			model[key]++
		default:
			c.leave(r, r.hash(key), key)
			if model[key]--; n == 1 {
				delete(model, key)
			}
		}
		if got := c.find(r.hash(key), key); got != model[key] {
			t.Fatalf("step %d: %v has %d open; want %d", step, key.prefix(), got, model[key])
		}
		if c.len() != len(model) {
			t.Fatalf("step %d: %d clients; want %d", step, c.len(), len(model))
		}
	}
	for _, key := range keys {
		if got := c.find(r.hash(key), key); got != model[key] {
			t.Errorf("%v has %d open; want %d", key.prefix(), got, model[key])
		}
	}
}

// The short key of an IPv4 client stands for its key, and no other client has one.
func TestShortKeys(t *testing.T) {
	r := compile(Limits{}, &Config{}, "connections")
	for _, addr := range []string{"0.0.0.0", "10.1.2.3", "255.255.255.255"} {
		for length := range 33 {
			key := r.key(netip.MustParseAddr(addr), length)
			if id, ok := key.v4(); !ok || id.key() != key {
				t.Errorf("%s/%d: %v becomes %v", addr, length, key, id.key())
			}
		}
	}
	for _, addr := range []string{"::", "::1", "2001:db8::1", "fe80::1%eth0", "::ffff:0:0"} {
		if id, ok := r.key(netip.MustParseAddr(addr).WithZone(""), 64).v4(); ok {
			t.Errorf("%s has the short key %x", addr, id)
		}
	}
	if id, ok := (clientKey{}).v4(); ok {
		t.Errorf("no address has the short key %x", id)
	}
}
