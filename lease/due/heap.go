// Package due orders things by the moment at which each comes due, for both sides of a lease: one
// timer then serves all of them.
package due

import "time"

// Item is something that comes due.
type Item interface {
	comparable
	// DueAt is when. While it is in a Heap, it changes only right before Fix.
	DueAt() time.Duration
	// Place is where the item keeps its place in the heap, which nobody else writes.
	Place() *int
}

// Heap is a binary heap of items, the next to come due first. The zero Heap is empty. An item is in
// one heap at most, and at most once.
type Heap[T Item] []T

// Next is when the first comes due; ok is false where there is none.
func (h Heap[T]) Next() (at time.Duration, ok bool) {
	if len(h) == 0 {
		return 0, false
	}
	return h[0].DueAt(), true
}

// Push adds an item.
func (h *Heap[T]) Push(x T) {
	*h = append(*h, x)
	*x.Place() = len(*h) - 1
	h.up(len(*h) - 1)
}

// Pop takes the first out; there must be one.
func (h *Heap[T]) Pop() T {
	x := (*h)[0]
	h.Remove(x)
	return x
}

// Remove takes an item out.
func (h *Heap[T]) Remove(x T) {
	i, last := *x.Place(), len(*h)-1
	h.swap(i, last)
	var none T
	(*h)[last] = none
	*h = (*h)[:last]
	if i < last {
		h.Fix((*h)[i])
	}
}

// Fix restores the order after an item has come to be due at another time.
func (h *Heap[T]) Fix(x T) {
	i := *x.Place()
	h.up(i)
	if *x.Place() == i {
		h.down(i)
	}
}

func (h Heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[i].DueAt() >= h[parent].DueAt() {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h Heap[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].DueAt() < h[child].DueAt() {
			child++
		}
		if h[child].DueAt() >= h[i].DueAt() {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h Heap[T]) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].Place(), *h[j].Place() = i, j
}
