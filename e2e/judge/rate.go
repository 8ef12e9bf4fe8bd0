package judge

import (
	"fmt"
	"time"
)

// Passing is something that a rate counts, as its receiver saw it: a request, or bytes.
type Passing struct {
	At time.Time
	N  float64
}

// Step is what a rate allows from a moment on.
type Step struct {
	From      time.Time
	PerSecond float64
	Burst     float64
}

// Busiest is the window of time in which most passed beyond PerSecond × its length.
type Busiest struct {
	From, To time.Time
	Passed   float64
	Beyond   float64 // PerSecond × the length
	Allowed  float64 // what Beyond may be
}

// Over reports whether more passed than the rate allows.
func (b Busiest) Over() bool { return b.Beyond > b.Allowed }

func (b Busiest) String() string {
	return fmt.Sprintf("%.0f passed in %v, %.1f beyond the rate; %.1f may be", b.Passed, b.To.Sub(b.From).Round(time.Millisecond), b.Beyond, b.Allowed)
}

// Weigh looks at every window of time: between any two passings, both included, no more may pass
// than rate × t + burst. The rate is that of steps, in order, the first of which holds from the
// beginning; the burst is the largest of them.
//
// A passing is seen after its token was taken, at most late after it. So what is seen in a window
// was taken in one that is longer by late at most, and late is added to t.
func Weigh(steps []Step, late time.Duration, seen []Passing) Busiest {
	var burst, fastest float64
	for _, s := range steps {
		burst, fastest = max(burst, s.Burst), max(fastest, s.PerSecond)
	}
	worst := Busiest{Allowed: burst + fastest*late.Seconds()}
	now := Busiest{Allowed: worst.Allowed}
	for i, p := range seen {
		if i > 0 {
			now.Beyond -= brings(steps, now.To, p.At)
		}
		if i == 0 || now.Beyond <= 0 {
			now = Busiest{From: p.At, Allowed: worst.Allowed}
		}
		now.To, now.Passed, now.Beyond = p.At, now.Passed+p.N, now.Beyond+p.N
		if now.Beyond > worst.Beyond {
			worst = now
		}
	}
	return worst
}

// brings is what the steps' rates bring from one moment to another.
func brings(steps []Step, from, to time.Time) (sum float64) {
	for i, s := range steps {
		begin, end := from, to
		if i > 0 {
			begin = latest(begin, s.From)
		}
		if i+1 < len(steps) && steps[i+1].From.Before(end) {
			end = steps[i+1].From
		}
		if end.After(begin) {
			sum += s.PerSecond * end.Sub(begin).Seconds()
		}
	}
	return sum
}

// Between is what passed from one moment to another.
func Between(seen []Passing, from, to time.Time) (sum float64) {
	for _, p := range seen {
		if !p.At.Before(from) && p.At.Before(to) {
			sum += p.N
		}
	}
	return sum
}
