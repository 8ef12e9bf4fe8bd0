package accesslog

import (
	"sync/atomic"
	"time"
)

// Shown is the number of lines of one kind that are logged per period. One more line reports
// how many were left out.
const Shown = 10

// Sampler bounds the lines of one kind, so that a storm of refusals does not fill the disk. A
// suppressed line costs one atomic add.
type Sampler struct {
	every  time.Duration
	events atomic.Int64 // in this period, which begins with the first
	timer  *time.Timer  // ends the period
	report func(left int64)
}

// NewSampler makes a sampler that calls report once per period, with the number of lines that were
// left out, if any.
func NewSampler(every time.Duration, report func(left int64)) *Sampler {
	s := &Sampler{every: every, report: report}
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	return s
}

// Show counts an event and reports whether to log it.
func (s *Sampler) Show() bool {
	n := s.events.Add(1)
	if n == 1 {
		s.timer.Reset(s.every)
	}
	return n <= Shown
}

// flush ends the period.
func (s *Sampler) flush() {
	if n := s.events.Swap(0); n > Shown {
		s.report(n - Shown)
	}
}

// Close reports the lines left out so far, and ends the sampler. Show must not be called
// afterwards.
func (s *Sampler) Close() {
	s.timer.Stop()
	s.flush()
}
