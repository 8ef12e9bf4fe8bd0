package leader

import (
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/due"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// A key of a rate is vacant while nobody holds any of it. The log keeps the level that was left in
// it, and keys may be many: each client's address is one. Once a key has been vacant for as long as
// its bucket takes to fill, it is as good as one that was never leased, and the log may forget it.
// The bucket is the largest that it was while held: if its burst was lowered, one that is raised
// again would begin full.

const (
	// vacantFor is how long a key without a limit is kept.
	vacantFor = 10 * time.Minute
	// forgetEvery is in what steps of time keys come due, so that those of a step are one entry.
	forgetEvery = time.Second
)

// vacancy is one vacant key.
type vacancy struct {
	key   limit.Key
	since time.Duration // when it became vacant, or its limit changed
	limit limitID       // that of the limit since then; the zero value: none
	due   time.Duration // to be judged, or forgotten
	index int           // in the heap
}

// vacancies are the vacant keys.
type vacancies struct {
	keys map[limit.Key]*vacancy
	heap due.Heap[*vacancy]
}

// noteVacant looks whether a key of which the log keeps something has become vacant, or is so no
// longer. Its time counts from now on: this leader can't know what happened before. Very many may
// become vacant at once, with their node's session: they are judged some at a time, a little later.
func (a *Allocator) noteVacant(now time.Duration, st *fsm.State, key limit.Key) {
	if !key.Resource.IsRate() {
		return
	}
	if v := a.vacant.keys[key]; v != nil {
		a.vacant.heap.Remove(v)
		delete(a.vacant.keys, key)
	}
	if st.Granted(key) > 0 {
		return
	}
	v := &vacancy{key: key, since: now, due: nextStep(now)}
	_, v.limit = limitOfRate(st, key)
	a.vacant.keys[key] = v
	a.vacant.heap.Push(v)
}

// limitID tells limits apart. Those that were written by one entry have one ModifyIndex.
type limitID struct {
	index   uint64
	pattern string // its text
}

// limitOfRate is the limit of a rate; nil and the zero value where none caps it.
func limitOfRate(st *fsm.State, key limit.Key) (*limit.Limit, limitID) {
	l := st.Table().Governing(key)
	if !l.Caps(key.Resource) {
		return nil, limitID{}
	}
	return l, limitID{l.ModifyIndex, l.Pattern.String()}
}

// follow lets a key's time begin anew where its limit has changed: a change of limits fills
// nothing.
func (v *vacancy) follow(now time.Duration, st *fsm.State) (l *limit.Limit, changed bool) {
	l, id := limitOfRate(st, v.key)
	if changed = id != v.limit; changed {
		v.limit, v.since = id, now
	}
	return l, changed
}

// vacantFollow goes by new limits at once: one that comes and goes again between two looks has kept
// the bucket from filling, too. Where a limit has changed, its keys are judged anew: they may come
// due much sooner than they would have.
func (a *Allocator) vacantFollow(now time.Duration, st *fsm.State) {
	var sooner []*vacancy
	for _, v := range a.vacant.heap {
		if _, changed := v.follow(now, st); changed && v.due > nextStep(now) {
			sooner = append(sooner, v)
		}
	}
	for _, v := range sooner {
		v.due = nextStep(now)
		a.vacant.heap.Fix(v)
	}
}

func nextStep(at time.Duration) time.Duration {
	return (at + forgetEvery - 1) / forgetEvery * forgetEvery
}

// judge decides when a vacant key comes due under the limit in force.
func (a *Allocator) judge(now time.Duration, st *fsm.State, v *vacancy) {
	wait := vacantFor
	if l, _ := v.follow(now, st); l != nil {
		wait = fillTime(l, v.key.Resource, st.LargestBurst(v.key))
	}
	v.due = nextStep(max(v.since, a.notBefore) + wait)
}

// fillTime is how long the bucket of a rate takes to fill that once had a burst of so many grains.
// Buckets fill a little slower than they might, and clocks run apart.
func fillTime(l *limit.Limit, r limit.Resource, largest int64) time.Duration {
	fill := timeToFill(max(l.BurstGrains(r), largest), l.PerSecond(r))
	return fill + fill/100 + leasepb.Margin
}

// forgettable takes out the keys that the log may forget now. What becomes of them, the entry's
// outcome says.
func (a *Allocator) forgettable(now time.Duration, st *fsm.State) (keys []limit.Key) {
	for range leasepb.MaxBatch {
		if due, any := a.vacant.heap.Next(); !any || due > now {
			break
		}
		v := a.vacant.heap[0]
		if a.judge(now, st, v); v.due > now {
			a.vacant.heap.Fix(v)
			continue
		}
		a.vacant.heap.Pop()
		delete(a.vacant.keys, v.key)
		keys = append(keys, v.key)
	}
	return keys
}

// DueAt implements [due.Item].
func (v *vacancy) DueAt() time.Duration { return v.due }

// Place implements [due.Item].
func (v *vacancy) Place() *int { return &v.index }
