package leader

// divide shares capacity among demands by max-min fairness (water-filling; Bertsekas and Gallager,
// Data Networks, section 6.5.2): nobody gets more than its demand, and what anybody lacks could not
// be given without taking from somebody who has no more.
//
// Slots are whole, so the level may fall between two numbers. divide returns the lower one's shares
// and how many are left over; these extras go, one each, to demands above their share, in turns.
// Where the demands fit, everybody has its demand and extra is 0.
func divide(capacity int64, demands []int64) (shares []int64, extra int64) {
	shares = make([]int64, len(demands))
	left := max(capacity, 0)
	for {
		var open int64
		for i, d := range demands {
			if shares[i] < d {
				open++
			}
		}
		if open == 0 {
			return shares, 0
		}
		step := left / open
		if step == 0 {
			return shares, left
		}
		for i, d := range demands {
			if shares[i] < d {
				give := min(step, d-shares[i])
				shares[i] += give
				left -= give
			}
		}
	}
}
