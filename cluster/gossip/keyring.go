package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Keys are the keys of gossip, of 16, 24 or 32 bytes each. The first encrypts; any of them
// decrypts.
type Keys [][]byte

const maxKeys = 16 // each is tried on every message

// Check returns an error if a key can't be used.
func (k Keys) Check() error {
	if len(k) > maxKeys {
		return fmt.Errorf("%d gossip keys are too many: %d are allowed, and a change of keys takes two", len(k), maxKeys)
	}
	for _, key := range k {
		if err := memberlist.ValidateKey(key); err != nil {
			return fmt.Errorf("a gossip key has %d bytes: it must have 16, 24 or 32; `weir keygen` makes one", len(key))
		}
	}
	return nil
}

// keyRing is memberlist's key ring. It encrypts from the moment it holds a key.
type keyRing struct {
	*memberlist.Keyring
	mu sync.Mutex // one change at a time
}

func newKeyRing(keys Keys) (*keyRing, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ring, err := memberlist.NewKeyring(keys[1:], keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	return &keyRing{Keyring: ring}, nil
}

// errUnencrypted says that a running memberlist can't be given a key ring, nor lose its own.
var errUnencrypted = errors.New("gossip can't be encrypted, or cease to be, without a restart")

// set makes the ring hold the given keys and use the first. New keys are added before the key in
// use changes, and old ones removed after: no message in between is encrypted with a key that this
// node lacks.
//
// memberlist compacts the ring in place while other goroutines read it. So keys are only removed
// from the end, and the keys behind a removed one are re-added. Messages under those keys that
// arrive within that moment are lost, and gossip repeats them.
func (r *keyRing) set(keys Keys) error {
	if r == nil || len(keys) == 0 {
		return errUnencrypted
	}
	if err := keys.Check(); err != nil {
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

// SetKeys changes the keys of gossip while it runs. It fails if gossip was not encrypted at the
// start, or would no longer be.
func (g *Gossip) SetKeys(keys Keys) error {
	if err := g.ring.set(keys); err != nil {
		return fmt.Errorf("the gossip keys are not changed: %w", err)
	}
	return nil
}
