package proxy

// slumber says which directions of a tunnel sleep, and for want of what. It decides and does
// nothing else: its flow ends the goroutines, watches the sockets and starts the goroutines again.
//
// Directions are finUp and finDown.
type slumber struct {
	asleep   uint32 // directions that sleep
	starved  uint32 // those of them that wait for their meters; the others wait for bytes
	fedEarly uint32 // directions whose meters have bytes again, but that do not sleep yet
	rested   uint32 // directions that have slept for want of bytes at least once
}

// rest puts a direction to sleep for want of bytes. again says that it has slept so before.
func (s *slumber) rest(fin uint32) (again bool) {
	again = s.rested&fin != 0
	s.rested |= fin
	s.asleep |= fin
	return again
}

// starve puts a direction to sleep until it is fed. false means that it has been fed already, and
// does not sleep.
func (s *slumber) starve(fin uint32) bool {
	if s.fedEarly&fin != 0 {
		s.fedEarly &^= fin
		return false
	}
	s.asleep |= fin
	s.starved |= fin
	return true
}

// fed notes that a direction's meter has bytes again, and reports whether the direction is to be
// woken. Otherwise it is about to sleep, and will not.
func (s *slumber) fed(fin uint32) (wake bool) {
	if s.starved&fin != 0 {
		return true
	}
	s.fedEarly |= fin
	return false
}

// wake wakes those of the directions that sleep, and returns them.
func (s *slumber) wake(fins uint32) (woken uint32) {
	woken = s.asleep & fins
	s.asleep &^= woken
	s.starved &^= woken
	return woken
}
