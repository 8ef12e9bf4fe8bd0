package gossip

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"github.com/weirproxy/weir/cluster/handshake"
)

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func keyed(bs ...byte) Keys {
	var keys Keys
	for _, b := range bs {
		keys = append(keys, gossipKey(b))
	}
	return keys
}

// TestKeyRingIsSet compares the ring with what it was told, whatever it held before, while others
// read it.
func TestKeyRingIsSet(t *testing.T) {
	t.Parallel()
	r, err := newKeyRing(keyed(1))
	must(t, err)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	defer readers.Wait()
	defer close(stop)
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				for _, key := range r.GetKeys() {
					_ = key[0]
				}
			}
		}
	})
	for _, want := range []Keys{keyed(1, 2), keyed(2, 1), keyed(2), keyed(2, 3, 4, 5), keyed(5, 3), keyed(3, 9, 5, 1), keyed(1, 5, 3), keyed(7)} {
		must(t, r.set(want))
		got := r.GetKeys()
		if len(got) != len(want) || !bytes.Equal(got[0], want[0]) {
			t.Fatalf("told %v, it holds %v", want, got)
		}
		for _, key := range want {
			if !strings.Contains(string(bytes.Join(got, nil)), string(key)) {
				t.Errorf("told %v, it holds %v", want, got)
			}
		}
	}
	if err := r.set(nil); err == nil {
		t.Error("a ring without keys")
	}
	if err := (*keyRing)(nil).set(keyed(1)); err == nil {
		t.Error("keys for gossip that is not encrypted")
	}
	if err := r.set(make(Keys, maxKeys+1)); err == nil {
		t.Error("any number of keys")
	}
}

// TestKeyIsReplaced: in three passes over the nodes, and none is lost.
func TestKeyIsReplaced(t *testing.T) {
	t.Parallel()
	nodes := []*node{start(t, "a", encrypted(keyed(1)))}
	for _, name := range []string{"b", "c"} {
		nodes = append(nodes, start(t, name, encrypted(keyed(1)), joining(nodes[0])))
	}
	eventually(t, patience, "all meet", func() bool { return together(nodes...) })
	for _, pass := range []Keys{keyed(1, 2), keyed(2, 1), keyed(2)} {
		for _, n := range nodes {
			must(t, n.SetKeys(pass))
			if err := n.join(nodes[0].Addr().String()); err != nil {
				t.Fatalf("keys %v: %v", pass, err)
			}
			eventually(t, patience, "no node is lost", func() bool { return together(nodes...) }) // one may be a suspect for a moment
		}
	}
	late := start(t, "d", encrypted(keyed(2)), joining(nodes[0]))
	eventually(t, patience, "one with the new key alone is in", func() bool { return together(append(nodes, late)...) })
}

// TestGossipIsMovedToEncryption: nodes that are one step apart meet.
func TestGossipIsMovedToEncryption(t *testing.T) {
	t.Parallel()
	plain := func(*Config) {}
	step := func(p handshake.Plaintext) option { return func(c *Config) { c.Keys, c.Plaintext = keyed(1), p } }
	for _, pair := range [][2]option{
		{plain, step(handshake.PlainSend)},
		{step(handshake.PlainSend), step(handshake.PlainAccept)},
		{step(handshake.PlainAccept), step(handshake.PlainRefuse)},
	} {
		a := start(t, "a", pair[0])
		b := start(t, "b", pair[1], joining(a))
		c := start(t, "c", pair[0], joining(b))
		eventually(t, patience, "they meet", func() bool { return a.sees(b, c) && b.sees(a) })
	}
}

// TestForeignGossipIsExplained: nodes whose keys differ do not meet. Each says so once, in one
// line, and what to do.
func TestForeignGossipIsExplained(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mine, theirs Keys
		joiner, host string
	}{
		"another key": {keyed(1), keyed(2), "the gossip keys differ: give both nodes the same cluster.gossip_key", "the gossip keys differ"},
		"no key":      {nil, keyed(2), "one node encrypts gossip, and the other has no key", "one node encrypts gossip, and the other doesn't"},
		"only here":   {keyed(1), nil, "one node encrypts gossip, and the other", "one node encrypts gossip, and the other has no key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := start(t, "a", encrypted(test.theirs))
			from := start(t, "b", encrypted(test.mine), joining(to))
			for n, says := range map[*node]string{from: test.joiner, to: test.host} {
				eventually(t, patience, n.cfg.Name+" is told", func() bool { return strings.Contains(n.log.String(), says) })
			}
			for range 10 {
				if err := from.join(to.Addr().String()); err == nil {
					t.Error("they meet")
				}
			}
			for n, says := range map[*node]string{from: test.joiner, to: test.host} {
				if said := n.log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "cluster.gossip_key") {
					t.Errorf("%s says, instead of %q once:\n%s", n.cfg.Name, says, said)
				}
			}
			if len(to.Members()) != 1 || len(from.Members()) != 1 {
				t.Error("they have met")
			}
		})
	}
}

func TestKeysAreChecked(t *testing.T) {
	t.Parallel()
	for _, keys := range []Keys{nil, keyed(1), {make([]byte, 16), make([]byte, 24), make([]byte, 32)}, make16(maxKeys)} {
		must(t, keys.Check())
	}
	for _, keys := range []Keys{{[]byte("short")}, append(keyed(1), nil), make16(maxKeys + 1)} {
		if err := keys.Check(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d keys: %v", len(keys), err)
		}
	}
}

// make16 returns n keys.
func make16(n int) (keys Keys) {
	for i := range n {
		keys = append(keys, bytes.Repeat([]byte{byte(i)}, 16))
	}
	return keys
}
