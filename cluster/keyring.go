package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// GossipKeys are the keys of gossip, of 16, 24 or 32 bytes each. The first encrypts, all decrypt.
type GossipKeys [][]byte

const maxGossipKeys = 16 // each is tried on every message

func (k GossipKeys) check() error {
	if len(k) > maxGossipKeys {
		return fmt.Errorf("%d gossip keys are too many: %d are allowed, and a change of keys takes two", len(k), maxGossipKeys)
	}
	for _, key := range k {
		if err := memberlist.ValidateKey(key); err != nil {
			return fmt.Errorf("a gossip key has %d bytes: it must have 16, 24 or 32; `weir keygen` makes one", len(key))
		}
	}
	return nil
}

// keyRing is memberlist's key ring, which encrypts from the moment that it holds a key.
type keyRing struct {
	*memberlist.Keyring
	mu sync.Mutex // one change at a time
}

func newKeyRing(keys GossipKeys) (*keyRing, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ring, err := memberlist.NewKeyring(keys[1:], keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	return &keyRing{Keyring: ring}, nil
}

// errUnencrypted: a ring can't be put into, or taken from, a running memberlist.
var errUnencrypted = errors.New("gossip can't be encrypted, or cease to be, without a restart")

// set makes the ring hold the keys given, the first of them in use. New keys come in before the one
// in use changes, and old ones go after it: no message in between is encrypted with a key that this
// node does not know.
//
// A key is only ever taken from the ring's end. The ring closes a gap in place, under the eyes of
// who is decrypting; what stood behind it is therefore taken out, and put back: what arrives within
// that moment is lost, and gossip repeats it.
func (r *keyRing) set(keys GossipKeys) error {
	if r == nil || len(keys) == 0 {
		return errUnencrypted
	}
	if err := keys.check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		if err := r.AddKey(key); err != nil {
			return err
		}
	}
	if err := r.UseKey(keys[0]); err != nil {
		return err
	}
	have := slices.Clone(r.GetKeys())
	keep := func(key []byte) bool {
		return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
	}
	first := slices.IndexFunc(have, func(key []byte) bool { return !keep(key) })
	if first < 0 {
		return nil
	}
	for i := len(have) - 1; i >= first; i-- {
		if err := r.RemoveKey(have[i]); err != nil {
			return err
		}
	}
	for _, key := range have[first:] {
		if !keep(key) {
			continue
		}
		if err := r.AddKey(key); err != nil {
			return err
		}
	}
	return nil
}

// SetGossipKeys changes the keys of gossip while it runs. It fails where gossip was not encrypted
// at the start, or would not be any more.
func (c *Cluster) SetGossipKeys(keys GossipKeys) error {
	if err := c.gossip.ring.set(keys); err != nil {
		return fmt.Errorf("the gossip keys are not changed: %w", err)
	}
	return nil
}
