package linear

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// NoLife is the Life of what was answered by one of two processes, nobody knows which.
const NoLife = -1

// View is what one node showed: all limits, at one index of the log.
type View struct {
	Node         string
	Life         int
	Index        uint64
	Limits       map[string]Shown // by pattern
	Call, Return time.Duration
}

// Shown is one limit in a view.
type Shown struct {
	Value int64
	Index uint64 // of the write that it comes from
}

// Views checks that each view is the log's state at its index, that a node's never go back, and
// that each has what was acknowledged through the node before.
func Views(writes []*Write, views []*View) error {
	log := newLog(writes)
	for _, v := range views {
		if err := log.check(v); err != nil {
			return fmt.Errorf("node %s at index %d, asked at %v: %w", v.Node, v.Index, v.Call, err)
		}
	}
	return forward(writes, views)
}

// log is what is known of the log: the writes that were acknowledged, in order, and those that may
// be anywhere in it.
type log struct {
	of      map[string][]*Write // by pattern, in the order of their indexes
	by      map[int64]*Write    // by value
	missing map[string]bool     // patterns that a write of unknown outcome may have deleted
	at      map[int64]uint64    // where a value was seen
}

func newLog(writes []*Write) *log {
	l := &log{of: map[string][]*Write{}, by: map[int64]*Write{}, missing: map[string]bool{}, at: map[int64]uint64{}}
	for _, w := range writes {
		if w.Value != Absent {
			l.by[w.Value] = w
		}
		switch {
		case w.Outcome == OK:
			l.of[w.Pattern] = append(l.of[w.Pattern], w)
		case w.Outcome == Unknown && w.Value == Absent:
			l.missing[w.Pattern] = true
		}
	}
	for _, of := range l.of {
		slices.SortFunc(of, func(a, b *Write) int { return cmp.Compare(a.Index, b.Index) })
	}
	return l
}

func (l *log) check(v *View) error {
	for pattern, shown := range v.Limits {
		if err := l.checkShown(v, pattern, shown); err != nil {
			return err
		}
	}
	for pattern := range l.of {
		if _, there := v.Limits[pattern]; there || l.missing[pattern] {
			continue
		}
		if last := l.last(pattern, v.Index); last != nil && last.Value != Absent {
			return fmt.Errorf("%s is missing; %d was written at %d", pattern, last.Value, last.Index)
		}
	}
	return nil
}

func (l *log) checkShown(v *View, pattern string, shown Shown) error {
	w, last := l.by[shown.Value], l.last(pattern, v.Index)
	switch {
	case w == nil || w.Pattern != pattern || w.Outcome == Refused:
		return fmt.Errorf("%s shows %d, which nobody wrote", pattern, shown.Value)
	case shown.Index > v.Index:
		return fmt.Errorf("%s shows %d of index %d, which is later", pattern, shown.Value, shown.Index)
	case w.Outcome == OK && shown.Index > w.Index:
		return fmt.Errorf("%s shows %d of index %d, which was written at %d", pattern, shown.Value, shown.Index, w.Index)
	case last != nil && shown.Index < last.Index && shown.Value != last.Value:
		return fmt.Errorf("%s shows %d of index %d; %d was written at %d", pattern, shown.Value, shown.Index, last.Value, last.Index)
	}
	if at, seen := l.at[shown.Value]; seen && at != shown.Index {
		return fmt.Errorf("%s shows %d at index %d and at %d: it was written twice", pattern, shown.Value, at, shown.Index)
	}
	l.at[shown.Value] = shown.Index
	return nil
}

// last is the acknowledged write of a pattern that is the latest at an index.
func (l *log) last(pattern string, index uint64) *Write {
	of := l.of[pattern]
	i, _ := slices.BinarySearchFunc(of, index+1, func(w *Write, i uint64) int { return cmp.Compare(w.Index, i) })
	if i == 0 {
		return nil
	}
	return of[i-1]
}

// event is something that a view which begins later must include.
type event struct {
	at    time.Duration
	index uint64
	what  string
}

// forward checks that what a node shows goes forward, for as long as its process lives.
func forward(writes []*Write, views []*View) error {
	type life struct {
		node string
		life int
	}
	known := map[life][]event{}
	for _, w := range writes {
		if w.Outcome == OK && w.Life != NoLife {
			of := life{w.Node, w.Life}
			known[of] = append(known[of], event{w.Return, w.Visible, "a write through it was acknowledged"})
		}
	}
	views = slices.DeleteFunc(slices.Clone(views), func(v *View) bool { return v.Life == NoLife })
	for _, v := range views {
		of := life{v.Node, v.Life}
		known[of] = append(known[of], event{v.Return, v.Index, "it showed that index"})
	}
	for _, of := range known {
		slices.SortFunc(of, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		for i := range of { // from here on: the newest so far
			if i > 0 && of[i-1].index > of[i].index {
				of[i].index, of[i].what = of[i-1].index, of[i-1].what
			}
		}
	}
	for _, v := range views {
		of := known[life{v.Node, v.Life}]
		i, _ := slices.BinarySearchFunc(of, v.Call, func(e event, at time.Duration) int { return cmp.Compare(e.at, at) })
		if i > 0 && of[i-1].index > v.Index {
			return fmt.Errorf("node %s shows index %d at %v; before, %s: %d", v.Node, v.Index, v.Return, of[i-1].what, of[i-1].index)
		}
	}
	return nil
}
