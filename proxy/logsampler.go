package proxy

import (
	"sync/atomic"
	"time"
)

const (
	// sampleLines is the number of lines of one kind that are logged per sampleEvery. One more line
	// reports how many were left out.
	sampleLines = 10
	sampleEvery = time.Second
	// strangerEvery replaces sampleEvery for lines that anyone who can reach the port can cause.
	// They must not fill a disk in a month either.
	strangerEvery = time.Minute
)

// sampler bounds the lines of one kind, so that a storm of refusals does not fill the disk. A
// suppressed line costs one atomic add.
type sampler struct {
	every  time.Duration
	events atomic.Int64 // in this period, which begins with the first
	timer  *time.Timer  // ends the period
	report func(left int64)
}

// newSampler makes a sampler that calls report once per period, with the number of lines that were
// left out, if any.
func newSampler(every time.Duration, report func(left int64)) *sampler {
	s := &sampler{every: every, report: report}
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	return s
}

// show counts an event and reports whether to log it.
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

// close reports the lines left out so far. show must not be called afterwards.
func (s *sampler) close() {
	s.timer.Stop()
	s.flush()
}

// newSamplers makes one sampler for each reason to refuse, and one for each other line that a
// client can cause.
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
	s.resolvers = newSampler(strangerEvery, func(left int64) {
		s.log.Warn("more SOCKS5 clients ask for addresses, not shown", "clients", left)
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
	s.resolvers.close()
	s.handshakes.close()
}
