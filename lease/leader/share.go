package leader

// divide shares capacity among demands by weighted max-min fairness (water-filling; Bertsekas and
// Gallager, Data Networks, section 6.5.2): nobody gets more than its demand, and what anybody lacks
// could not be given without taking from somebody who has no more for its weight. Without weights
// all are alike.
//
// Slots are whole, so the level may fall between two numbers. divide returns the shares rounded
// down, and what part of a slot more is due to each: the slots that are left over go, one each, to
// demands above their share, in turns. Where the demands fit, everybody has its demand and all
// parts are 0.
func divide(capacity int64, demands, weights []int64) (shares []int64, parts []float64) {
	shares, parts = make([]int64, len(demands)), make([]float64, len(demands))
	weight := func(i int) int64 {
		if weights == nil {
			return 1
		}
		return weights[i]
	}
	left := max(capacity, 0)
	for {
		open := int64(0)
		for i, d := range demands {
			if shares[i] < d {
				open += weight(i)
			}
		}
		if open == 0 {
			return shares, parts
		}
		level, rest := left/open, left%open
		filled := false
		for i, d := range demands {
			if shares[i] < d && d <= level*weight(i)+rest*weight(i)/open {
				shares[i] = d
				left -= d
				filled = true
			}
		}
		if filled {
			continue
		}
		for i, d := range demands {
			if shares[i] < d {
				more := rest * weight(i)
				shares[i] = level*weight(i) + more/open
				parts[i] = float64(more%open) / float64(open)
			}
		}
		return shares, parts
	}
}

// divideAll is divide without turns: what is left over goes to the first who lack some.
func divideAll(capacity int64, demands []int64) []int64 {
	shares, _ := divide(capacity, demands, nil)
	left := max(capacity, 0)
	for _, n := range shares {
		left -= n
	}
	for i := range shares {
		if shares[i] < demands[i] && left > 0 {
			shares[i]++
			left--
		}
	}
	return shares
}
