package proxy

import (
	"sync/atomic"
	"time"
)

const (
	// sampleLines is how many lines of one kind are logged in a sampleEvery; one more says how many were not.
	sampleLines = 10
	sampleEvery = time.Second
)

// sampler bounds the lines of one kind, so that a storm of refusals fills no disk. It costs whoever is not shown one atomic
// addition.
type sampler struct {
	events atomic.Int64 // since the second began, with the first of them
	timer  *time.Timer  // to the second's end
	report func(left int64)
}

// newSampler makes one that tells report, once a second, how many lines were left out, if any.
func newSampler(report func(left int64)) *sampler {
	s := &sampler{report: report}
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	return s
}

// show counts an event, and says whether it gets a line.
func (s *sampler) show() bool {
	n := s.events.Add(1)
	if n == 1 {
		s.timer.Reset(sampleEvery)
	}
	return n <= sampleLines
}

// flush ends the second.
func (s *sampler) flush() {
	if n := s.events.Swap(0); n > sampleLines {
		s.report(n - sampleLines)
	}
}

// close reports what is left. Nobody may call show any more.
func (s *sampler) close() {
	s.timer.Stop()
	s.flush()
}

// newSamplers makes those of a server: one for each reason to refuse, one for clients that can't be accepted, and one for TLS handshakes.
func (s *Server) newSamplers() {
	for reason := range s.refusals {
		s.refusals[reason] = newSampler(func(left int64) {
			s.log.Warn("more requests refused, not shown", "reason", Refusal(reason).String(), "requests", left)
		})
	}
	s.accepts = newSampler(func(left int64) {
		s.log.Warn("more clients could not be accepted, not shown", "times", left)
	})
	s.handshakes = newSampler(func(left int64) {
		s.log.Warn("more TLS handshakes failed, not shown", "clients", left)
	})
}

func (s *Server) closeSamplers() {
	for _, r := range s.refusals {
		r.close()
	}
	s.accepts.close()
	s.handshakes.close()
}
