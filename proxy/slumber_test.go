package proxy

import "testing"

// Each direction sleeps and wakes for itself, is woken once, and is not put to sleep after it was
// fed.
func TestSlumber(t *testing.T) {
	var s slumber
	expect := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %v; want %v, in %+v", what, got, want, s)
		}
	}
	const both = finUp | finDown
	expect("wake while awake", s.wake(both), uint32(0))
	expect("a first rest", s.rest(finUp), false)
	expect("the other direction's", s.rest(finDown), false)
	expect("wake", s.wake(finUp), uint32(finUp))
	expect("wake again", s.wake(finUp), uint32(0))
	expect("a second rest", s.rest(finUp), true)
	expect("wake both", s.wake(both), uint32(both))

	expect("starve", s.starve(finDown), true)
	expect("starved", s.starved, uint32(finDown))
	expect("food for a direction that is awake", s.fed(finUp), false)
	expect("food", s.fed(finDown), true)
	expect("food twice", s.fed(finDown), true)
	expect("wake", s.wake(finDown), uint32(finDown))
	expect("starved", s.starved, uint32(0))
	expect("starve after food", s.starve(finUp), false)
	expect("starve when that is used up", s.starve(finUp), true)
	expect("rest after that", s.wake(finUp) == finUp && s.rest(finUp), true)
}
