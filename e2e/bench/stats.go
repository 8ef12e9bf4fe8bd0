//go:build linux

package main

import (
	"math"
	"slices"
	"time"
)

// sample is what one contender showed in one round, by metric.
type sample map[string]float64

// round is what all contenders showed in one round, by contender.
type round map[string]sample

// of is one figure, or NaN where there is none.
func (r round) of(contender, metric string) float64 {
	v, ok := r[contender][metric]
	if !ok {
		return math.NaN()
	}
	return v
}

// ratio is a contender's figure over another's.
func (r round) ratio(metric, of, against string) float64 {
	return r.of(of, metric) / r.of(against, metric)
}

// each applies value to all rounds.
func each(rounds []round, value func(round) float64) []float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = value(r)
	}
	return values
}

// known drops what is not a number: a round without the figure, or a division by zero.
func known(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// middle is the median of the values that are known, NaN where none is.
func middle(values []float64) float64 {
	if values = known(values); len(values) == 0 {
		return math.NaN()
	}
	return median(values)
}

// spread is the distance between the lower and the upper quartile of what is known, as a share of
// the median.
func spread(values []float64) float64 {
	values = known(values)
	slices.Sort(values)
	if len(values) == 0 {
		return math.NaN()
	}
	return (percentile(values, 75) - percentile(values, 25)) / middle(values)
}

// number is what has a mean.
type number interface{ ~int64 | ~float64 }

// median is the middle value, the mean of the middle two for an even number; 0 for none.
func median[T number](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	switch n := len(sorted); {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	default:
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
}

// percentile of sorted values, by the nearest rank; 0 for none.
func percentile[T number](sorted []T, p float64) T {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
