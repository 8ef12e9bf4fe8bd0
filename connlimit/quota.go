package connlimit

import (
	"sync"
	"sync/atomic"
)

// A quota counts the units of a cap that the clients of all shards share.
//
// While many units are free, shards take some at a time and keep them as spare ones, under their
// own lock, so that a connection touches no memory that other cores write. Before anything is
// refused, the spare ones are gathered: from then on the word alone says how many are free, and 0
// means that all of them are in use at that instant. Shards take spare units again once many are
// free.
type quota struct {
	// word is the number of free units, which is below 0 after the cap was lowered, times 4, and the
	// mode.
	word atomic.Int64
	_    [56]byte // the line of word is the contended one

	// gathering is held while units are gathered, and when the cap is set.
	gathering sync.Mutex
	// batch is how many units a shard takes at a time, and many how many free ones allow it. They
	// change only while all shards are locked.
	batch, many int64
}

const (
	modeUncapped  = iota // nothing is counted
	modeSpread           // shards hold spare units
	modeGathering        // they are being taken from the shards, and nobody takes new ones
	modeCentral          // no shard has a spare unit
	modeBits      = 2
	modeMask      = 1<<modeBits - 1
	one           = 1 << modeBits // a unit in the word
)

// maxBatch bounds what a shard takes at a time.
const maxBatch = 32

type outcome int

const (
	taken outcome = iota
	refused
	mustGather // what is in the shards is needed to tell
)

// set makes the cap l, of which used units are in use. Needs gathering and the locks of all
// shards, whose spare units must be 0.
func (q *quota) set(l Limit, used, shards int) {
	if !l.capped {
		q.word.Store(modeUncapped)
		return
	}
	q.batch = min(int64(l.n)/int64(8*shards), maxBatch)
	q.many = 4 * q.batch * int64(shards)
	free, mode := int64(l.n)-int64(used), int64(modeCentral)
	if q.batch > 0 && free >= q.many {
		mode = modeSpread
	}
	q.word.Store(free<<modeBits | mode)
}

// take takes a unit for the shard whose spare units are given, and whose lock is held.
func (q *quota) take(spare *int64) outcome {
	if *spare > 0 {
		*spare--
		return taken
	}
	for {
		word := q.word.Load()
		free, mode := word>>modeBits, word&modeMask
		switch {
		case mode == modeUncapped:
			return taken
		case mode == modeSpread && free >= q.batch:
			if q.word.CompareAndSwap(word, word-q.batch*one) {
				*spare = q.batch - 1
				return taken
			}
		case mode == modeSpread:
			return mustGather
		case free > 0:
			if q.word.CompareAndSwap(word, word-one) {
				return taken
			}
		case mode == modeGathering:
			return mustGather
		default:
			return refused
		}
	}
}

// give gives a unit back. A shard that sees modeSpread under its lock is yet to be gathered from.
func (q *quota) give(spare *int64) {
	switch q.word.Load() & modeMask {
	case modeUncapped:
	case modeSpread:
		if *spare++; *spare > 2*q.batch {
			*spare -= q.batch
			q.word.Add(q.batch * one)
		}
	default:
		word := q.word.Add(one)
		if word&modeMask == modeCentral && q.batch > 0 && word>>modeBits >= q.many {
			q.word.CompareAndSwap(word, word-modeCentral+modeSpread)
		}
	}
}

// gather brings the spare units of all shards back to the word. spare says where a shard has its.
func (q *quota) gather(shards []shard, spare func(*shard) *int64) {
	q.gathering.Lock()
	defer q.gathering.Unlock()
	for {
		word := q.word.Load()
		if word&modeMask != modeSpread {
			return // it has been done
		}
		if q.word.CompareAndSwap(word, word-modeSpread+modeGathering) {
			break
		}
	}
	for i := range shards {
		sh := &shards[i]
		sh.mu.Lock()
		units := spare(sh)
		q.word.Add(*units * one)
		*units = 0
		sh.mu.Unlock()
	}
	q.word.Add(modeCentral - modeGathering)
}

// A network is a Network under which connections are counted.
type network struct {
	Network
	// state is how many of its Total are in use, times 2³², and how many of these may still be given
	// back because another limit refuses. It is counted only if there is a Total.
	state atomic.Uint64
}

const inUse = 1 << 32

// take takes a unit, which settle must follow. While others are not settled, it can't tell that
// none is free: then it reports unsettled, and the caller tries again.
func (n *network) take() (ok, unsettled bool) {
	if n == nil || !n.Total.capped {
		return true, false
	}
	for {
		state := n.state.Load()
		if int64(state>>32) >= int64(n.Total.n) {
			return false, uint32(state) > 0
		}
		if n.state.CompareAndSwap(state, state+inUse+1) {
			return true, false
		}
	}
}

// settle says whether the unit that was taken is kept.
func (n *network) settle(kept bool) {
	switch {
	case n == nil || !n.Total.capped:
	case kept:
		n.state.Add(^uint64(0))
	default:
		n.state.Add(^uint64(inUse))
	}
}

func (n *network) give() {
	if n != nil && n.Total.capped {
		n.state.Add(^uint64(inUse - 1))
	}
}
