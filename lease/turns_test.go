package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// batched is a flow whose source hands over so many bytes at a time, and only once little is left
// of those before.
type batched struct {
	*testFlow
	batch, hand, moved int
	waits              bool
	readyAt            time.Duration
}

const (
	nearlyNone = 12 << 10
	refillsIn  = time.Millisecond
)

// run moves what can be moved now: as a pump does, it asks the meter before the source.
func (b *batched) run(at time.Duration) {
	if len(b.wake) > 0 {
		<-b.wake
		b.waits = false
	}
	if at >= b.readyAt && b.hand <= nearlyNone {
		b.hand += b.batch
	}
	for !b.waits && b.hand > 0 {
		n := b.Take(32 << 10)
		if b.waits = n == 0; b.waits {
			return
		}
		k := min(n, b.hand)
		b.Put(n - k)
		b.moved += k
		if b.hand -= k; b.hand <= nearlyNone {
			b.readyAt = at + refillsIn
		}
	}
}

// The turn of a flow goes on where it had less than a piece at hand: flows of one key move the same,
// however their bytes come. One that has little to move at a time holds up nobody.
func TestTurnsGoOn(t *testing.T) {
	const rate, burst, took = 1_000_000, 512 << 10, 20 * time.Second
	for name, batches := range map[string][]int{
		"batches":  {96 << 10, 96 << 10, 1 << 20, 1 << 20, 40 << 10, 24 << 10},
		"a little": {1 << 20, 1 << 20, 1 << 20, 7},
	} {
		t.Run(name, func(t *testing.T) {
			m, clock := meterNode(t, upDownload, pacedAt(t, rate, burst))
			var flows []*batched
			for _, batch := range batches {
				flows = append(flows, &batched{testFlow: newTestFlow(m, &limit.Subject{Host: to(t, "up")}), batch: batch, hand: batch})
			}
			j := new(byteJudge)
			for at := time.Duration(0); at < took; at += time.Millisecond / 2 {
				for _, f := range flows {
					before := f.moved
					f.run(at)
					if n := f.moved - before; n > 0 {
						j.noteAt(at, rate, "", n)
					}
				}
				m.pass(clock, time.Millisecond/2)
			}
			sum, least, most := 0, flows[0].moved, 0
			for _, f := range flows {
				sum += f.moved
				if f.batch > nearlyNone {
					least, most = min(least, f.moved), max(most, f.moved)
				}
				f.End()
			}
			t.Logf("%.3f of the rate is used, flows are %.1f %% apart", float64(sum)/(rate*took.Seconds()), 100*(float64(most)/float64(least)-1))
			if j.over > burst {
				t.Errorf("in some window %.0f bytes above the rate were moved, the burst is %d", j.over, burst)
			}
			if float64(sum) < 0.97*rate*took.Seconds() || float64(most) > 1.03*float64(least) {
				t.Errorf("%d bytes in %v, by flow %d to %d", sum, took, least, most)
			}
			if last := flows[len(flows)-1]; last.batch < nearlyNone && last.moved < int(took/refillsIn)*last.batch/3 {
				t.Errorf("the flow that has %d bytes each %v has moved %d", last.batch, refillsIn, last.moved)
			}
		})
	}
}
