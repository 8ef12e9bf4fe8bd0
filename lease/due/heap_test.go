package due

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type item struct {
	at    time.Duration
	place int
}

func (x *item) DueAt() time.Duration { return x.at }
func (x *item) Place() *int          { return &x.place }

// Whatever comes, goes and changes, the first is the next to come due, and each item knows its
// place.
func TestHeap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h Heap[*item]
		var all []*item
		at := rapid.Map(rapid.IntRange(0, 20), func(n int) time.Duration { return time.Duration(n) })
		some := func() *item {
			if len(all) == 0 {
				rt.Skip("empty")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")]
		}
		gone := func(x *item) { all = slices.DeleteFunc(all, func(y *item) bool { return y == x }) }
		rt.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				x := &item{at: at.Draw(rt, "at")}
				all = append(all, x)
				h.Push(x)
			},
			"pop": func(*rapid.T) {
				some()
				gone(h.Pop())
			},
			"remove": func(*rapid.T) {
				x := some()
				h.Remove(x)
				gone(x)
			},
			"fix": func(*rapid.T) {
				x := some()
				x.at = at.Draw(rt, "at")
				h.Fix(x)
			},
			"": func(*rapid.T) {
				next, ok := h.Next()
				if len(h) != len(all) || ok != (len(all) > 0) {
					rt.Fatalf("%d items in the heap, want %d", len(h), len(all))
				}
				for i, x := range h {
					if x.place != i || x.at < next {
						rt.Fatalf("item %d believes to be at %d, and is due at %d before the first: %d", i, x.place, x.at, next)
					}
				}
			},
		})
	})
}
