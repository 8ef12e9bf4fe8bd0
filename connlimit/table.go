package connlimit

import "math/bits"

// counts are how many the clients of a shard have open. The tables are hash tables with linear
// probing, not maps, so that a client that comes and goes allocates nothing, one memory access
// finds it, and the hash that has chosen the shard is not calculated twice.
//
// IPv4 clients have a table of their own, whose places are a quarter as large: with many clients,
// an access that misses the cache costs more than all else.
type counts struct {
	v4     narrow
	others wide
}

// find returns how many the client has open.
func (c *counts) find(hash uint64, key clientKey) int {
	if id, ok := key.v4(); ok {
		return c.v4.find(hash, id)
	}
	return c.others.find(hash, key)
}

// enter adds one to what the client has open, which is less than maxOpen.
func (c *counts) enter(r *rules, hash uint64, key clientKey) {
	if id, ok := key.v4(); ok {
		c.v4.enter(r, hash, id)
		return
	}
	c.others.enter(r, hash, key)
}

// leave takes one away.
func (c *counts) leave(r *rules, hash uint64, key clientKey) {
	if id, ok := key.v4(); ok {
		c.v4.leave(r, hash, id)
		return
	}
	c.others.leave(r, hash, key)
}

// len is the number of clients that have something open.
func (c *counts) len() int { return c.v4.n + c.others.n }

const minSlots = 8

// grown is the size of a table of n places, used of them in use, that is to take one more client;
// shrunk is its size after one has left. At most three quarters are in use.
func grown(used, n int) int {
	if 4*used < 3*n {
		return n
	}
	return max(minSlots, 2*n)
}

func shrunk(used, n int) int {
	if n <= minSlots || 16*used >= n {
		return n
	}
	return max(minSlots, n/4)
}

// fills reports whether the client at place i, whose search begins at home, is to move to the free
// place, because its search would otherwise end there.
func fills(free, i, home, mask int) bool { return (i-home)&mask >= (i-free)&mask }

// v4ID is the key of an IPv4 client: 32 bits of address and 6 bits that say how many of them count.
type v4ID uint64

const (
	idBits  = 32 + 6
	maxOpen = 1<<(64-idBits) - 1 // per client: 67 million
)

// v4 returns the key of an IPv4 client in short.
func (k clientKey) v4() (id v4ID, ok bool) {
	if k.hi != 0 || k.lo>>32 != 0xffff || k.bits < 96 {
		return 0, false
	}
	return v4ID(k.lo<<32>>26) | v4ID(k.bits-96), true
}

func (id v4ID) key() clientKey {
	return clientKey{lo: 0xffff<<32 | uint64(id>>6), bits: 96 + uint8(id&63)}
}

// narrow counts IPv4 clients. Each place has an id in its high bits, and in the others how many the
// client has open; 0 marks a free place.
type narrow struct {
	slots []uint64 // a power of two
	n     int      // places in use
}

func (t *narrow) find(hash uint64, id v4ID) int {
	if t.n == 0 {
		return 0
	}
	return int(t.slots[t.at(hash, id)] & maxOpen)
}

// at returns where the client is, or would be.
func (t *narrow) at(hash uint64, id v4ID) int {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s := t.slots[i]; s == 0 || v4ID(s>>(64-idBits)) == id {
			return int(i)
		}
	}
}

func (t *narrow) enter(r *rules, hash uint64, id v4ID) {
	if size := grown(t.n, len(t.slots)); size != len(t.slots) {
		t.resize(r, size)
	}
	s := &t.slots[t.at(hash, id)]
	if *s == 0 {
		*s = uint64(id) << (64 - idBits)
		t.n++
	}
	if *s&maxOpen == maxOpen {
		panic("connlimit: more open than can be counted")
	}
	*s++
}

// leave removes a client that has none left, and those that were put behind its place move up, so
// that no search ends too early.
func (t *narrow) leave(r *rules, hash uint64, id v4ID) {
	free := t.at(hash, id)
	if t.slots[free]--; t.slots[free]&maxOpen > 0 {
		return
	}
	t.n--
	mask := len(t.slots) - 1
	for i := (free + 1) & mask; t.slots[i] != 0; i = (i + 1) & mask {
		if fills(free, i, t.home(r, i), mask) {
			t.slots[free], free = t.slots[i], i
		}
	}
	t.slots[free] = 0
	if size := shrunk(t.n, len(t.slots)); size != len(t.slots) {
		t.resize(r, size)
	}
}

// home returns where the search for the client at place i begins.
func (t *narrow) home(r *rules, i int) int {
	return int(r.hash(v4ID(t.slots[i]>>(64-idBits)).key())) & (len(t.slots) - 1)
}

func (t *narrow) resize(r *rules, n int) {
	old := t.slots
	t.slots = make([]uint64, 1<<bits.Len(uint(n-1)))
	for _, s := range old {
		if s != 0 {
			id := v4ID(s >> (64 - idBits))
			t.slots[t.at(r.hash(id.key()), id)] = s
		}
	}
}

// wide counts all other clients.
type wide struct {
	slots []tally // a power of two
	n     int     // places in use
}

// A tally is how many a client has open. 0 marks a free place in the table.
type tally struct {
	key  clientKey
	open int32
}

func (t *wide) find(hash uint64, key clientKey) int {
	if t.n == 0 {
		return 0
	}
	return int(t.slots[t.at(hash, key)].open)
}

// at returns where the client is, or would be.
func (t *wide) at(hash uint64, key clientKey) int {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.open == 0 || s.key == key {
			return int(i)
		}
	}
}

func (t *wide) enter(r *rules, hash uint64, key clientKey) {
	if size := grown(t.n, len(t.slots)); size != len(t.slots) {
		t.resize(r, size)
	}
	s := &t.slots[t.at(hash, key)]
	if s.open == 0 {
		s.key = key
		t.n++
	}
	s.open++
}

// leave is as that of narrow.
func (t *wide) leave(r *rules, hash uint64, key clientKey) {
	free := t.at(hash, key)
	if t.slots[free].open--; t.slots[free].open > 0 {
		return
	}
	t.n--
	mask := len(t.slots) - 1
	for i := (free + 1) & mask; t.slots[i].open != 0; i = (i + 1) & mask {
		if fills(free, i, int(r.hash(t.slots[i].key))&mask, mask) {
			t.slots[free], free = t.slots[i], i
		}
	}
	t.slots[free] = tally{}
	if size := shrunk(t.n, len(t.slots)); size != len(t.slots) {
		t.resize(r, size)
	}
}

func (t *wide) resize(r *rules, n int) {
	old := t.slots
	t.slots = make([]tally, 1<<bits.Len(uint(n-1)))
	for _, s := range old {
		if s.open > 0 {
			t.slots[t.at(r.hash(s.key), s.key)] = s
		}
	}
}
