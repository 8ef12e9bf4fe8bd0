package judge

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func sec(seconds float64) time.Time {
	return time.Unix(1000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func ones(times ...float64) (seen []Passing) {
	for _, s := range times {
		seen = append(seen, Passing{sec(s), 1})
	}
	return seen
}

func TestWeigh(t *testing.T) {
	two := []Step{{PerSecond: 2, Burst: 3}}
	for _, c := range []struct {
		what  string
		steps []Step
		late  time.Duration
		seen  []Passing
		over  bool
	}{
		{"nothing", two, 0, nil, false},
		{"the burst", two, 0, ones(0, 0, 0), false},
		{"more than the burst", two, 0, ones(0, 0, 0, 0), true},
		{"the burst, then the rate", two, 0, ones(0, 0, 0, .5, 1, 1.5), false},
		{"one too many in a long window", two, 0, ones(0, 0, 0, .5, 1, 1.5, 1.9), true},
		{"a second burst after a rest", two, 0, ones(0, 0, 0, 1.5, 1.5, 1.5), false},
		{"a second burst too early", two, 0, ones(0, 0, 0, 1, 1, 1), true},
		{"quiet before it, in the same run", two, 0, ones(0, 1, 2, 3, 10, 10, 10, 10), true},
		{"seen late", two, 500 * time.Millisecond, ones(0, 0, 0, 0), false},
		{"later than that", two, 400 * time.Millisecond, ones(0, 0, 0, 0), true},
		{"bytes", two, 0, []Passing{{sec(0), 3}, {sec(1), 2}}, false},
		{"too many bytes", two, 0, []Passing{{sec(0), 3}, {sec(1), 2.5}}, true},
		{"raised", []Step{{PerSecond: 2, Burst: 1}, {sec(1), 10, 1}}, 0, ones(0, .5, 1, 1.1, 1.2), false},
		{"before it was raised", []Step{{PerSecond: 2, Burst: 1}, {sec(1), 10, 1}}, 0, ones(0, .5, .6, 1.1, 1.2), true},
		{"lowered", []Step{{PerSecond: 10, Burst: 1}, {sec(1), 2, 1}}, 0, ones(.9, 1, 1.1), true},
	} {
		if got := Weigh(c.steps, c.late, c.seen); got.Over() != c.over {
			t.Errorf("%s: %v; over %v", c.what, got, got.Over())
		}
	}
}

// Weigh finds what looking at every window finds.
func TestWeighIsEveryWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		steps := []Step{{PerSecond: r.Float64() * 5, Burst: 1}, {sec(2), r.Float64() * 5, 2}}
		var seen []Passing
		for s := 0.0; s < 5; s += r.ExpFloat64() / 4 {
			seen = append(seen, Passing{sec(s), float64(1 + r.IntN(3))})
		}
		worst := 0.0
		for i := range seen {
			sum := 0.0
			for j := i; j < len(seen); j++ {
				sum += seen[j].N
				worst = max(worst, sum-brings(steps, seen[i].At, seen[j].At))
			}
		}
		if got := Weigh(steps, 0, seen); math.Abs(got.Beyond-worst) > 1e-6 {
			t.Fatalf("%v; every window for itself: %.3f", got, worst)
		}
	}
}
