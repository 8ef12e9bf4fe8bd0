package leader

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// clientRate is a limit on each client.
func clientRate(t testing.TB, rate string, burst int64) limit.Limit {
	t.Helper()
	l := rateLimit(t, rate, burst)
	l.Pattern = limittest.Scoped(limit.ScopeClient, "*")
	return l
}

func clientKey(i int) limit.Key {
	return limit.Key{Scope: limit.ScopeClient, Resource: limit.Requests, Name: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}
}

func (d *desk) kept() (n int) {
	d.state.Kept(func(limit.Key) bool { n++; return true })
	return n
}

// say sends an update about keys of rates: demands, and where shares are given back, empty.
func (d *desk) say(conn uint64, keys []limit.Key, wants int64, back func(limit.Key) int64) {
	u := &leasepb.Update{LimitsIndex: d.state.Table().Index}
	for _, key := range keys {
		if n := back(key); n > 0 {
			u.Releases = append(u.Releases, &leasepb.Holding{Key: fsmpb.KeyOf(key), Slots: n})
		}
		u.Demands = append(u.Demands, &leasepb.Demand{Key: fsmpb.KeyOf(key), Waiting: wants})
	}
	d.alloc.update(d.now, conn, u)
}

// useOnce lets a node hold keys for a moment, as many as are in one entry at a time.
func (d *desk) useOnce(conn uint64, keys []limit.Key) {
	d.t.Helper()
	for some := range slices.Chunk(keys, leasepb.MaxBatch) {
		d.say(conn, some, 1, func(limit.Key) int64 { return 0 })
		d.turn()
		d.now += maxGather
		if d.state.Granted(some[0]) == 0 || d.state.Granted(some[len(some)-1]) == 0 {
			d.t.Fatal("nothing was granted")
		}
		d.say(conn, some, 0, d.state.Granted)
		d.turn()
		d.now += maxGather
	}
}

// forgotten is when the log keeps none of the keys any more, at most a minute after the time given.
func (d *desk) forgotten(within time.Duration) time.Duration {
	d.t.Helper()
	for end := d.now + within + time.Minute; d.kept() > 0; {
		if d.now > end {
			d.t.Fatalf("%d keys are kept after %v", d.kept(), d.now)
		}
		for _, p := range d.alloc.order {
			p.seen = d.now
		}
		d.now = max(d.alloc.NextWake(d.now), d.now+time.Microsecond)
		d.turn()
		if err := d.alloc.Check(); err != nil {
			d.t.Fatal(err)
		}
	}
	return d.now
}

// A key of which nobody holds anything is forgotten once its bucket must be full, whatever happened
// to the limits and the leader meanwhile; not earlier, and not much later.
func TestVacantKeyIsForgottenWhenFull(t *testing.T) {
	const burst, fill = 20, 20 * time.Second // at 1/s
	change := func(d *desk, c fsm.Command) {
		d.apply(c)
		d.alloc.LimitsChanged(d.now, d.state)
	}
	write := func(d *desk, l limit.Limit) {
		l.Source = limit.SourceAPI
		change(d, &fsm.PutLimit{Limit: l})
	}
	put := func(d *desk, rate string) { write(d, clientRate(t, rate, burst)) }
	narrow := clientRate(t, "0.1/s", 1)
	narrow.Pattern = limittest.Scoped(limit.ScopeClient, clientKey(1).Name)
	for name, test := range map[string]struct {
		meanwhile func(d *desk)
		after     time.Duration // from what happened meanwhile, 10 s after the key had become vacant
		late      time.Duration // how much later is in order: the change is seen when the key was due before
	}{
		"nothing":         {func(*desk) {}, fill - 10*time.Second, 0},
		"another limit":   {func(d *desk) { put(d, "2/s") }, fill / 2, fill / 2},
		"a slower limit":  {func(d *desk) { put(d, "0.1/s") }, 10 * fill, fill / 2},
		"the limit again": {func(d *desk) { put(d, "2/s"); put(d, "1/s") }, fill, fill / 2},
		"no limit":        {func(d *desk) { change(d, &fsm.ReplaceLimits{Source: limit.SourceConfig}) }, vacantFor, fill / 2},
		"a lower burst":   {func(d *desk) { write(d, clientRate(t, "1/s", 1)) }, fill, fill / 2},
		"a lower burst, and a new leader": {func(d *desk) {
			write(d, clientRate(t, "1/s", 1))
			d.alloc = NewAllocator(d.now, 1, d.state)
		}, fill, fill / 2},
		"a higher burst": {func(d *desk) { write(d, clientRate(t, "1/s", 2*burst)) }, 2 * fill, fill / 2},
		"a limit of its own, for a while": {func(d *desk) {
			write(d, narrow)
			d.now += 5 * time.Second
			change(d, &fsm.DeleteLimit{Pattern: narrow.Pattern})
		}, fill, 0},
		"a new leader": {func(d *desk) {
			d.alloc = NewAllocator(d.now, 1, d.state)
		}, fill, 0},
		"a new leader that holds back": {func(d *desk) {
			d.alloc = NewAllocator(d.now, 1, d.state)
			d.alloc.Hold(d.now + 30*time.Second)
		}, fill + 30*time.Second, 0},
		"used again": {func(d *desk) { d.useOnce(1, []limit.Key{clientKey(1)}) }, fill, 0},
		"the entry is void": {func(d *desk) {
			d.now += fill
			d.alloc.order[0].seen = d.now
			d.alloc.Tick(d.now)
			if cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust); !ok || len(cmd.Forget) != 1 {
				t.Fatalf("proposed: %v", cmd)
			}
			d.alloc.Applied(d.now, d.state, fsm.Result{Err: fsm.ErrRepeated})
		}, fill, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, clientRate(t, "1/s", burst))
			d.join(1, "a", "1")
			d.useOnce(1, []limit.Key{clientKey(1)})
			if d.kept() != 1 {
				t.Fatalf("%d keys are kept", d.kept())
			}
			for end := d.now + 10*time.Second; d.now < end; {
				d.now += time.Second
				d.alloc.order[0].seen = d.now
				d.turn()
			}
			test.meanwhile(d)
			begun := d.now
			took := d.forgotten(test.after) - begun
			if most := test.after + test.after/50 + test.late + leasepb.Margin + 3*forgetEvery; took < test.after || took > most {
				t.Errorf("forgotten after %v; want %v to %v", took, test.after, most)
			}
			if err := d.alloc.AtRest(); !strings.Contains(name, "new leader") && err != nil {
				t.Error(err)
			}
		})
	}
}

// A key that is held is not forgotten, however long; nor what somebody is granted in the same
// entry.
func TestHeldKeyIsNotForgotten(t *testing.T) {
	d := newDesk(t, clientRate(t, "1/s", 2))
	d.join(1, "a", "1")
	key := clientKey(1)
	d.useOnce(1, []limit.Key{key})
	d.now += time.Hour
	d.alloc.order[0].seen = d.now
	d.say(1, []limit.Key{key}, 1, func(limit.Key) int64 { return 0 })
	d.turn()
	if n := d.state.Granted(key); n == 0 || d.kept() != 0 {
		t.Fatalf("%d shares are granted", n)
	}
	if at, any := d.alloc.vacant.heap.Next(); any {
		t.Errorf("a key that is held would be forgotten at %v", at)
	}
}

// 30,000 clients that have gone are forgotten in entries of a bounded size, with bounded work for
// each look; then the leader has no reason to look again.
func TestManyVacantKeys(t *testing.T) {
	const clients = 30_000
	d := newDesk(t, clientRate(t, "10/s", 10))
	d.join(1, "a", "1")
	keys := make([]limit.Key, clients)
	for i := range keys {
		keys[i] = clientKey(i)
	}
	d.useOnce(1, keys)
	if d.alloc = NewAllocator(d.now, 1, d.state); d.kept() != clients {
		t.Fatalf("%d keys are kept", d.kept())
	}
	entries := 0
	for end := d.now + 10*time.Second; d.now < end; d.now = max(d.alloc.NextWake(d.now), d.now+time.Microsecond) {
		if len(d.alloc.order) > 0 {
			d.alloc.order[0].seen = d.now
		}
		d.alloc.Tick(d.now)
		cmd := d.alloc.Next(d.now, d.state)
		if cmd == nil {
			continue
		}
		if n := len(cmd.(*fsm.Adjust).Forget); n > leasepb.MaxBatch {
			t.Fatalf("an entry forgets %d keys", n)
		}
		entries++
		d.alloc.Applied(d.now, d.state, d.apply(cmd))
	}
	if most := clients/leasepb.MaxBatch + 5; d.kept() != 0 || entries > most {
		t.Errorf("%d keys are kept after %d entries", d.kept(), entries)
	}
	if at := d.alloc.NextWake(d.now); at != d.now+time.Second {
		t.Errorf("the next look is in %v", at-d.now)
	}
}

// Limits that one entry wrote have one index: taking the narrow one away is a change all the same.
func TestVacantKeyComesUnderAnotherLimit(t *testing.T) {
	wide, narrow := clientRate(t, "1000/s", 1480), clientRate(t, "1/h", 1480)
	narrow.Pattern = limittest.Scoped(limit.ScopeClient, clientKey(1).Name)
	for _, together := range []bool{true, false} {
		d := newDesk(t, wide)
		if together {
			d = newDesk(t, wide, narrow) // as a config is put in, or reloaded
		} else {
			d.apply(&fsm.PutLimit{Limit: narrow})
		}
		d.join(1, "a", "1")
		d.useOnce(1, []limit.Key{clientKey(1)})
		d.now += 990 * time.Millisecond
		d.apply(&fsm.DeleteLimit{Pattern: narrow.Pattern})
		d.alloc.LimitsChanged(d.now, d.state)
		began := d.now
		if took := d.forgotten(time.Minute) - began; took < 1480*time.Millisecond {
			t.Errorf("together %v: forgotten, and full again, after %v; filling takes 1.48 s", together, took)
		}
	}
}

// A key whose slow limit goes is kept for ten minutes, not for as long as that would have taken.
func TestVacantKeyLosesItsLimit(t *testing.T) {
	d := newDesk(t, clientRate(t, "1/h", 1000))
	d.join(1, "a", "1")
	d.useOnce(1, []limit.Key{clientKey(1)})
	d.now += 5 * time.Second
	d.alloc.order[0].seen = d.now
	d.turn()
	d.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig})
	d.alloc.LimitsChanged(d.now, d.state)
	began := d.now
	if took := d.forgotten(2000*time.Hour) - began; took < vacantFor || took > vacantFor+2*forgetEvery {
		t.Errorf("forgotten after %v, want ten minutes", took)
	}
}
