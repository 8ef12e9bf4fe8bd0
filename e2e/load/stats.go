package load

import (
	"math"
	"slices"
	"time"
)

// Jain is Jain's fairness index of shares: 1 when all are equal, 1/n when one has everything. Of
// nothing it is 1.
func Jain(shares []float64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// Fairness is Jain's index over the proxies' successes.
func Fairness(tallies []Tally) float64 {
	shares := make([]float64, len(tallies))
	for i, t := range tallies {
		shares[i] = float64(t.OK)
	}
	return Jain(shares)
}

// Percentile is the p-th percentile (0 to 100) of sorted, by nearest rank; 0 of nothing.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Sum adds tallies up, without a proxy's name.
func Sum(tallies []Tally) Tally {
	sum := Tally{Reasons: map[string]uint64{}}
	for _, t := range tallies {
		sum.OK += t.OK
		sum.Refused += t.Refused
		sum.Failed += t.Failed
		sum.Cut += t.Cut
		for reason, n := range t.Reasons {
			sum.Reasons[reason] += n
		}
		if t.LastFail != nil {
			sum.LastFail = t.LastFail
		}
		sum.Waits = append(sum.Waits, t.Waits...)
	}
	slices.Sort(sum.Waits)
	return sum
}
