package leasetest

import "time"

// actor is what events happen to. The kinds are its own.
type actor interface{ act(kind uint8, n int64) }

// event is something that will happen.
type event struct {
	who   actor
	proc  *process // where it happens; nil: outside all processes
	life  uint32   // of proc: the event is void once that has ended
	kind  uint8
	timer bool  // a timer of the process: it fires after what lies ready when a stopped process goes on
	n     int64 // the actor's own
}

// entry is an event's place in the heap.
type entry struct {
	at  time.Duration
	seq uint64 // events of one moment happen in the order in which they were planned
	ev  int32
}

func (e entry) before(o entry) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// queue holds the events to come: a heap of four children a node, whose bodies are kept apart and
// used again.
type queue struct {
	heap   []entry
	bodies []event
	free   []int32
	seq    uint64
}

func (q *queue) push(at time.Duration, e event) {
	var slot int32
	if n := len(q.free); n > 0 {
		slot, q.free = q.free[n-1], q.free[:n-1]
		q.bodies[slot] = e
	} else {
		slot = int32(len(q.bodies))
		q.bodies = append(q.bodies, e)
	}
	q.seq++
	it := entry{at, q.seq, slot}
	i := len(q.heap)
	q.heap = append(q.heap, it)
	for i > 0 {
		parent := (i - 1) / 4
		if !it.before(q.heap[parent]) {
			break
		}
		q.heap[i] = q.heap[parent]
		i = parent
	}
	q.heap[i] = it
}

// pop takes the next event; there must be one.
func (q *queue) pop() (time.Duration, event) {
	top := q.heap[0]
	last := len(q.heap) - 1
	it := q.heap[last]
	q.heap = q.heap[:last]
	if last > 0 {
		q.sink(it)
	}
	e := q.bodies[top.ev]
	q.bodies[top.ev] = event{}
	q.free = append(q.free, top.ev)
	return top.at, e
}

// sink puts it where it belongs, from the root down.
func (q *queue) sink(it entry) {
	i, n := 0, len(q.heap)
	for {
		child := 4*i + 1
		if child >= n {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, n); c++ {
			if q.heap[c].before(q.heap[least]) {
				least = c
			}
		}
		if !q.heap[least].before(it) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	q.heap[i] = it
}

// dice is a splitmix64 generator (Steele, Lea and Flood, 2014): small enough for every worker and
// process to have its own, so that leaving one out of a plan changes little for the others.
type dice struct{ state uint64 }

// newDice mixes a seed with what tells one generator of a world from another.
func newDice(seed uint64, who ...uint64) dice {
	d := dice{seed}
	for _, w := range who {
		d.state = d.next() ^ w*0x9e3779b97f4a7c15
	}
	return d
}

func (d *dice) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is a number from 0 to n-1; n must be above 0.
func (d *dice) below(n int) int { return int(d.next() >> 1 % uint64(n)) }

// one is true once in n times.
func (d *dice) one(n int) bool { return d.below(n) == 0 }

// upTo is a duration from 0 to most.
func (d *dice) upTo(most time.Duration) time.Duration {
	return time.Duration(d.next() >> 1 % uint64(most+1))
}

// between is a duration from least to most.
func (d *dice) between(least, most time.Duration) time.Duration { return least + d.upTo(most-least) }

// scale is a duration from least to most, of which every magnitude is as likely as the next.
func (d *dice) scale(least, most time.Duration) time.Duration {
	steps := 0
	for v := least; v < most; v *= 2 {
		steps++
	}
	low := least << d.below(max(steps, 1))
	return d.between(low, min(2*low, most))
}

func pick[T any](d *dice, of ...T) T { return of[d.below(len(of))] }
