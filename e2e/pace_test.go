package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
)

const (
	paceTick  = 5 * time.Millisecond
	paceBlind = 20 * time.Millisecond // a tick that is later than this is noted
	maxBlinds = 1 << 14
)

// pace notes when this process gets no processor: what it sees then has happened earlier.
type pace struct {
	stop, done chan struct{}

	mu     sync.Mutex
	blinds []judge.Interval
}

func startPace(t testing.TB) *pace {
	p := &pace{stop: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	t.Cleanup(func() { close(p.stop); <-p.done })
	return p
}

func (p *pace) run() {
	defer close(p.done)
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		p.note(last, now)
		last = now
	}
}

func (p *pace) note(last, now time.Time) {
	if now.Sub(last) < paceBlind {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.blinds) < maxBlinds {
		p.blinds = append(p.blinds, judge.Interval{From: last, To: now.Add(paceTick)}) // others wake up with us
	}
}

// blind returns the times since from in which the process stood still, and the longest of them.
func (p *pace) blind(from time.Time) (blinds []judge.Interval, longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.blinds {
		if b.To.After(from) {
			blinds = append(blinds, b)
			longest = max(longest, b.To.Sub(b.From))
		}
	}
	return blinds, longest
}

// earliest is when what was seen at a time may have happened.
func (p *pace) earliest(at time.Time) time.Time {
	blinds, _ := p.blind(at)
	if len(blinds) > 0 && blinds[0].From.Before(at) {
		return blinds[0].From
	}
	return at
}

func TestPace(t *testing.T) {
	var p pace
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	p.note(at(0), at(5))
	p.note(at(5), at(100))
	p.note(at(100), at(105))
	p.note(at(105), at(155))
	if blinds, longest := p.blind(at(0)); len(blinds) != 2 || longest != 100*time.Millisecond {
		t.Errorf("%v, longest %v; want two, the longer of 95 ms and a tick", blinds, longest)
	}
	if blinds, _ := p.blind(at(120)); len(blinds) != 1 || !blinds[0].From.Equal(at(105)) {
		t.Errorf("since 120: %v; want the one that began at 105", blinds)
	}
	for seen, happened := range map[int]int{3: 3, 50: 5, 102: 5, 157: 105, 200: 200} {
		if got := p.earliest(at(seen)); !got.Equal(at(happened)) {
			t.Errorf("what is seen at %d happened at %v at the earliest; want %d", seen, got.UnixMilli(), happened)
		}
	}
}
