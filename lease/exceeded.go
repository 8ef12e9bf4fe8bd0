package lease

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/limit"
)

// What limits that only report (mode = "report") would have refused or held back is counted in
// their pools, and sampled in the log: an operator who tries a limit out sees there whom it would
// meet.

const (
	// exceededEvery is the period in which the log names each key once.
	exceededEvery = time.Minute
	// exceededShown is how many keys it names in a period: a limit on every host meets thousands.
	exceededShown = 10
	// maxExceeded bounds the keys that are noted between two looks. Others are added up.
	maxExceeded = 64
)

// exceeded are the keys that were over a limit which only reports, and how often, since they were
// taken last. The fast path of bytes notes them too, under the locks of pools: its own comes last.
type exceeded struct {
	any   atomic.Bool // so that looking costs nothing where there is nothing
	mu    sync.Mutex
	times map[limit.Key]uint64
	more  uint64 // those of keys beyond maxExceeded
}

// note counts that a key was over its limit.
func (e *exceeded) note(k limit.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.times == nil {
		e.times = map[limit.Key]uint64{}
	}
	if _, known := e.times[k]; known || len(e.times) < maxExceeded {
		e.times[k]++
	} else {
		e.more++
	}
	e.any.Store(true)
}

// noteExceeds notes the limits above which a flow has just taken a piece. What it reads belongs to
// the flow.
func (n *Node) noteExceeds(f *Meter) {
	for i := range f.n {
		if f.exceeds[i] {
			n.exceeded.note(f.pools[i].key)
		}
	}
}

// take hands over what was noted.
func (e *exceeded) take() (times map[limit.Key]uint64, more uint64) {
	if !e.any.Load() {
		return nil, 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	times, more = e.times, e.more
	e.times, e.more = nil, 0
	e.any.Store(false)
	return times, more
}

// exceededLog samples what was noted into the log: a key when it is over its limit for the first
// time in a period, and at the period's end how often that happened besides.
type exceededLog struct {
	log   hclog.Logger
	ends  time.Duration // the period; it begins with the first line
	shown map[limit.Key]bool
	left  uint64 // not shown
}

// look logs what was noted since the last look.
func (l *exceededLog) look(now time.Duration, e *exceeded, t *limit.Table) {
	if len(l.shown) > 0 && now >= l.ends {
		l.flush()
	}
	times, more := e.take()
	l.left += more
	for _, k := range slices.SortedFunc(maps.Keys(times), limit.Key.Compare) {
		if l.shown[k] || len(l.shown) >= exceededShown {
			l.left += times[k]
			continue
		}
		if len(l.shown) == 0 {
			l.ends, l.shown = now+exceededEvery, map[limit.Key]bool{}
		}
		l.shown[k] = true
		pattern := ""
		if g := t.Governing(k); g != nil {
			pattern = g.Pattern.String()
		}
		l.log.Info("over a limit that only reports", "scope", k.Scope.String(), "name", k.Name,
			"resource", k.Resource.String(), "pattern", pattern, "times", times[k])
	}
}

// flush ends the period.
func (l *exceededLog) flush() {
	if l.left > 0 {
		l.log.Info("more often over limits that only report, not shown", "times", l.left)
	}
	l.shown, l.left = nil, 0
}
