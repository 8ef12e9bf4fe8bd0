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

const (
	// vacantFor is how long a key without a limit is kept.
	vacantFor = 10 * time.Minute
	// forgetEvery is in what steps of time keys come due, so that those of a step are one entry.
	forgetEvery = time.Second
)

// vacancy is one vacant key.
type vacancy struct {
	key    limit.Key
	since  time.Duration
	table  uint64 // the index of the limits in force when it became vacant
	judged bool
	limit  uint64        // the ModifyIndex of the limit that it was judged by; 0: none
	due    time.Duration // to be judged, or forgotten
	index  int           // in the heap
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
	v := &vacancy{key: key, since: now, table: st.Table().Index, due: nextStep(now)}
	a.vacant.keys[key] = v
	a.vacant.heap.Push(v)
}

func nextStep(at time.Duration) time.Duration {
	return (at + forgetEvery - 1) / forgetEvery * forgetEvery
}

// judge decides when a vacant key comes due under the limit in force. If that is not the one by
// which it was judged before, its time begins anew: a change of limits fills nothing.
func (a *Allocator) judge(now time.Duration, st *fsm.State, v *vacancy) {
	l := st.Table().Governing(v.key)
	index, wait := uint64(0), vacantFor
	if l.Caps(v.key.Resource) {
		index = l.ModifyIndex
		wait = fillTime(l, v.key.Resource)
	}
	if v.judged && v.limit != index || !v.judged && v.table != st.Table().Index {
		v.since = now
	}
	v.judged, v.limit = true, index
	v.due = nextStep(max(v.since, a.notBefore) + wait)
}

// fillTime is how long the bucket of a rate takes to fill. Buckets fill a little slower than they
// might, and clocks run apart.
func fillTime(l *limit.Limit, r limit.Resource) time.Duration {
	fill := timeToFill(l.BurstGrains(r), l.PerSecond(r))
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
