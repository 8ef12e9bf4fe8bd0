package proxy

import (
	"sync/atomic"
	"time"
)

const (
	// sampleLines is how many lines of one kind are logged in a sampleEvery; one more says how many
	// were not.
	sampleLines = 10
	sampleEvery = time.Second
	// strangerEvery is the sampleEvery of lines that anybody can cause who reaches the port: what
	// they write must not fill a disk in a month either.
	strangerEvery = time.Minute
)

// sampler bounds the lines of one kind, so that a storm of refusals fills no disk. It costs whoever
// is not shown one atomic addition.
type sampler struct {
	every  time.Duration
	events atomic.Int64 // since the period began, with the first of them
	timer  *time.Timer  // to the period's end
	report func(left int64)
}

// newSampler makes one that tells report, once in each period, how many lines were left out, if
// any.
func newSampler(every time.Duration, report func(left int64)) *sampler {
	s := &sampler{every: every, report: report}
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	return s
}

// show counts an event, and says whether it gets a line.
func (s *sampler) show() bool {
	n := s.events.Add(1)
	if n == 1 {
		s.timer.Reset(s.every)
	}
	return n <= sampleLines
}

// flush ends the period.
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

// newSamplers makes those of a server: one for each reason to refuse, and one for each other line
// that a client can cause.
func (s *Server) newSamplers() {
	for reason := range s.refusals {
		every := sampleEvery
		switch Refusal(reason) {
		case RefusedDenied, RefusedCredentials, RefusedMalformed:
			every = strangerEvery
		}
		s.refusals[reason] = newSampler(every, func(left int64) {
			s.log.Warn("more requests refused, not shown", "reason", Refusal(reason).String(), "requests", left)
		})
	}
	s.accepts = newSampler(strangerEvery, func(left int64) {
		s.log.Warn("more clients could not be accepted, not shown", "times", left)
	})
	s.crowded = newSampler(strangerEvery, func(left int64) {
		s.log.Warn("idle clients gave way more often, not shown", "times", left)
	})
	s.handshakes = newSampler(strangerEvery, func(left int64) {
		s.log.Warn("more TLS handshakes failed, not shown", "clients", left)
	})
}

func (s *Server) closeSamplers() {
	for _, r := range s.refusals {
		r.close()
	}
	s.accepts.close()
	s.crowded.close()
	s.handshakes.close()
}
