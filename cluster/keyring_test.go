package cluster

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clustertest"
)

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func keyed(bs ...byte) GossipKeys {
	var keys GossipKeys
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
	for _, want := range []GossipKeys{keyed(1, 2), keyed(2, 1), keyed(2), keyed(2, 3, 4, 5), keyed(5, 3), keyed(3, 9, 5, 1), keyed(1, 5, 3), keyed(7)} {
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
	if err := r.set(make(GossipKeys, maxGossipKeys+1)); err == nil {
		t.Error("any number of keys")
	}
}

// TestGossipKeyIsReplaced: in three passes over the nodes, and none is lost.
func TestGossipKeyIsReplaced(t *testing.T) {
	t.Parallel()
	with := func(c *Config) { c.GossipKeys = keyed(1) }
	nodes := []*testNode{startNode(t, "a", "", asProxy, with)}
	for _, name := range []string{"b", "c"} {
		nodes = append(nodes, startNode(t, name, "", asProxy, with, joining(nodes[0])))
	}
	together := func(nodes []*testNode) func() bool {
		return func() bool {
			for _, n := range nodes {
				for _, m := range nodes {
					if seen, ok := n.Member(m.cfg.Name); !ok || seen.Health != HealthAlive {
						return false
					}
				}
			}
			return true
		}
	}
	eventually(t, 10*time.Second, "all meet", together(nodes))
	for _, pass := range []GossipKeys{keyed(1, 2), keyed(2, 1), keyed(2)} {
		for _, n := range nodes {
			must(t, n.SetGossipKeys(pass))
			if _, err := n.gossip.list.Join([]string{nodes[0].GossipAddr()}); err != nil {
				t.Fatalf("keys %v: %v", pass, err)
			}
			if !together(nodes)() {
				t.Error("a node was lost")
			}
		}
	}
	late := startNode(t, "d", "", asProxy, func(c *Config) { c.GossipKeys = keyed(2) }, joining(nodes[0]))
	eventually(t, 10*time.Second, "one with the new key alone is in", together(append(nodes, late)))
}

// TestGossipIsMovedToEncryption: nodes that are one step apart meet.
func TestGossipIsMovedToEncryption(t *testing.T) {
	t.Parallel()
	plain := func(*Config) {}
	step := func(p Plaintext) option { return func(c *Config) { c.GossipKeys, c.Plaintext = keyed(1), p } }
	for _, pair := range [][2]option{{plain, step(PlainSend)}, {step(PlainSend), step(PlainAccept)}, {step(PlainAccept), step(PlainRefuse)}} {
		a := startNode(t, "a", "", asProxy, pair[0])
		b := startNode(t, "b", "", asProxy, pair[1], joining(a))
		startNode(t, "c", "", asProxy, pair[0], joining(b))
		eventually(t, 10*time.Second, "they meet", func() bool {
			x, _ := a.Member("b")
			y, _ := b.Member("a")
			z, _ := a.Member("c")
			return x.Health == HealthAlive && y.Health == HealthAlive && z.Health == HealthAlive
		})
	}
}

// TestForeignGossipIsExplained: nodes whose keys differ say so, at both ends, and what to do.
func TestForeignGossipIsExplained(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mine, theirs GossipKeys
		joiner, host string
	}{
		"another key": {keyed(1), keyed(2), "the gossip keys differ: give both nodes the same cluster.gossip_key", "the gossip keys differ"},
		"no key":      {nil, keyed(2), "one node encrypts gossip, and the other has no key", "one node encrypts gossip, and the other doesn't"},
		"only here":   {keyed(1), nil, "one node encrypts gossip, and the other", "one node encrypts gossip, and the other has no key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var near, far clustertest.Log
			to := startNode(t, "a", "", asProxy, func(c *Config) {
				c.GossipKeys, c.Log = test.theirs, hclog.New(&hclog.LoggerOptions{Output: &far, Level: hclog.Warn})
			})
			startNode(t, "b", "", asProxy, joining(to), func(c *Config) {
				c.GossipKeys, c.Log = test.mine, hclog.New(&hclog.LoggerOptions{Output: &near, Level: hclog.Warn})
			})
			for log, says := range map[*clustertest.Log]string{&near: test.joiner, &far: test.host} {
				eventually(t, 10*time.Second, "it is told", func() bool { return strings.Contains(log.String(), says) })
				if got := strings.Count(log.String(), says); got > 2 {
					t.Errorf("%q is said %d times:\n%s", says, got, log)
				}
			}
			if _, ok := to.Member("b"); ok {
				t.Error("it is a member")
			}
		})
	}
}
