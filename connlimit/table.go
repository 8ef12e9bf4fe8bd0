package connlimit

import "math/bits"

// A table counts what the clients of a shard have open. It is a hash table with linear probing, not
// a map, so that a client that comes and goes allocates nothing, one memory access finds it, and
// the hash that has chosen the shard is not calculated twice.
type table struct {
	slots []tally // a power of two, at most three quarters in use
	n     int
}

// A tally is how many a client has open. 0 marks a free place in the table.
type tally struct {
	key  clientKey
	open int32
}

const minSlots = 8

// find returns how many the client has open.
func (t *table) find(hash uint64, key clientKey) int {
	if t.n == 0 {
		return 0
	}
	return int(t.slots[t.at(hash, key)].open)
}

// at returns where the client is, or would be.
func (t *table) at(hash uint64, key clientKey) int {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.open == 0 || s.key == key {
			return int(i)
		}
	}
}

// enter adds one to what the client has open.
func (t *table) enter(r *rules, hash uint64, key clientKey) {
	if 4*t.n >= 3*len(t.slots) {
		t.resize(r, max(minSlots, 2*len(t.slots)))
	}
	s := &t.slots[t.at(hash, key)]
	if s.open == 0 {
		s.key = key
		t.n++
	}
	s.open++
}

// leave takes one away. A client that has none left is removed, and those that were put behind its
// place move up, so that no search ends too early.
func (t *table) leave(r *rules, hash uint64, key clientKey) {
	free := t.at(hash, key)
	if t.slots[free].open--; t.slots[free].open > 0 {
		return
	}
	t.n--
	mask := len(t.slots) - 1
	for i := (free + 1) & mask; t.slots[i].open != 0; i = (i + 1) & mask {
		home := int(r.hash(t.slots[i].key)) & mask
		if (i-home)&mask >= (i-free)&mask {
			t.slots[free], free = t.slots[i], i
		}
	}
	t.slots[free] = tally{}
	if len(t.slots) > minSlots && 16*t.n < len(t.slots) {
		t.resize(r, len(t.slots)/4)
	}
}

func (t *table) resize(r *rules, n int) {
	old := t.slots
	t.slots = make([]tally, max(minSlots, 1<<bits.Len(uint(n-1))))
	for _, s := range old {
		if s.open > 0 {
			t.slots[t.at(r.hash(s.key), s.key)] = s
		}
	}
}
