package proxy

import (
	"time"

	"github.com/weirproxy/weir/proxy/accesslog"
)

// The log shows ten refusals a second for each reason, ten a minute for reasons that strangers can
// cause, and the number of the others. The metrics count all.
//
// The line for a finished tunnel or request bypasses the logger, in the logger's format, and is
// written up to 5 ms late. It may come after later lines of the logger, and a killed process loses
// the last ones. If the log's reader is too slow, lines beyond 4 MiB are dropped and counted, so
// that clients are not held up.

// The log: refusals and other trouble that a client can cause, sampled, through the logger; and a
// line for each finished tunnel and request, past it.

const (
	// sampleEvery is the period in which a few lines of one kind are logged.
	sampleEvery = time.Second
	// strangerEvery replaces sampleEvery for lines that anyone who can reach the port can cause.
	// They must not fill a disk in a month either.
	strangerEvery = time.Minute
)

// SetLines changes the output of log lines. Unwritten lines may go to the old or to the new one.
func (s *Server) SetLines(to LineOutput) { s.lines.SetOutput(to) }

// newSamplers makes one sampler for each reason to refuse, and one for each other line that a
// client can cause.
func (s *Server) newSamplers() {
	for reason := range s.refusals {
		every := sampleEvery
		switch Refusal(reason) {
		case RefusedDenied, RefusedCredentials, RefusedMalformed:
			every = strangerEvery
		}
		s.refusals[reason] = accesslog.NewSampler(every, func(left int64) {
			s.log.Warn("more requests refused, not shown", "reason", Refusal(reason).String(), "requests", left)
		})
	}
	s.accepts = accesslog.NewSampler(strangerEvery, func(left int64) {
		s.log.Warn("more clients could not be accepted, not shown", "times", left)
	})
	s.crowded = accesslog.NewSampler(strangerEvery, func(left int64) {
		s.log.Warn("idle clients gave way more often, not shown", "times", left)
	})
	s.resolvers = accesslog.NewSampler(strangerEvery, func(left int64) {
		s.log.Warn("more SOCKS5 clients ask for addresses, not shown", "clients", left)
	})
	s.handshakes = accesslog.NewSampler(strangerEvery, func(left int64) {
		s.log.Warn("more TLS handshakes failed, not shown", "clients", left)
	})
}

func (s *Server) closeSamplers() {
	for _, r := range s.refusals {
		r.Close()
	}
	s.accepts.Close()
	s.crowded.Close()
	s.resolvers.Close()
	s.handshakes.Close()
}

// logRefusal logs a refusal: every one at debug, otherwise a sample as warnings. answer is a field
// that says how it was answered, if it was.
func (c *conn) logRefusal(message string, r *refusal, answer ...any) {
	s := c.srv
	log := s.log.Debug
	if !s.log.IsDebug() {
		if log = s.log.Warn; !s.refusals[r.counted()].Show() {
			return
		}
	}
	fields := make([]any, 0, 22)
	fields = append(fields, "client", c.addr)
	if c.subject.User != "" {
		fields = append(fields, "user", c.subject.User)
	}
	fields = append(fields, "node", s.node, "method", c.method, "host", c.subject.Host.Host, "port", c.subject.Host.Port)
	fields = append(fields, answer...)
	fields = append(fields, "error", r.code(), "details", r.details)
	if r.limit != nil {
		fields = append(fields, "scope", r.limit.Key.Scope.String(), "resource", r.limit.Key.Resource.String())
	}
	log(message, fields...)
}

// logLookup adds the time of the name look-up, if this connection needed one.
func (f *flow) logLookup(l *accesslog.Line) {
	if f.lookupTime > 0 {
		l.Duration("lookup", f.lookupTime)
	}
}

// logWaits adds the times that the request has waited.
func (r *request) logWaits(l *accesslog.Line) {
	l.Duration("slot_wait", r.waited)
	if r.tokenWait > 0 {
		l.Duration("token_wait", r.tokenWait)
	}
}

// logTunnel writes the log line of a finished tunnel.
func (f *flow) logTunnel(c *conn, now time.Time) {
	in, out := f.in.Load(), f.out.Load()
	f.srv.counters.BytesIn.Add(int64(in))
	f.srv.counters.BytesOut.Add(int64(out))
	if !f.srv.lines.Wanted() {
		return
	}
	l := f.srv.lines.Begin(now, "tunnel ended")
	l.Text("protocol", Kind(f.kind.Load()).String())
	l.Addr("client", c.addr)
	if c.subject.User != "" {
		l.Text("user", c.subject.User)
	}
	l.Text("node", f.srv.node)
	l.Text("host", f.target.Host)
	l.Number("port", uint64(f.target.Port))
	f.logLookup(l)
	f.request.logWaits(l)
	l.Duration("dial", f.dialTime)
	l.Number("bytes_out", in) // the words of the API: out is to the upstream
	l.Number("bytes_in", out)
	l.Duration("duration", now.Sub(f.since))
	l.Text("end", f.endName())
	f.srv.lines.End(l)
}

// endName names the flow's end for the log.
func (f *flow) endName() string {
	if cause := f.endCause(); cause != nil {
		return cause.Error()
	}
	return "closed"
}

// log writes the log line of a finished exchange.
func (x *exchange) log() {
	c, f := x.c, x.flow
	s := c.srv
	x.over = time.Now()
	in, out := f.in.Load()-x.in, f.out.Load()-x.out
	s.counters.BytesIn.Add(int64(in))
	s.counters.BytesOut.Add(int64(out))
	if !s.lines.Wanted() {
		return
	}
	var dial time.Duration
	if !f.plain.reused {
		dial = f.dialTime
	}
	l := s.lines.Begin(x.over, "request ended")
	l.Addr("client", c.addr)
	if c.subject.User != "" {
		l.Text("user", c.subject.User)
	}
	l.Text("node", s.node)
	l.Text("method", c.method)
	l.Text("host", c.subject.Host.Host)
	l.Number("port", uint64(c.subject.Host.Port))
	l.Number("status", uint64(f.plain.head.Status))
	l.Flag("reused", f.plain.reused)
	if !f.plain.reused {
		f.logLookup(l)
	}
	x.request.logWaits(l)
	l.Duration("dial", dial)
	l.Number("bytes_out", in) // the words of the API: out is to the upstream
	l.Number("bytes_in", out)
	l.Duration("duration", x.over.Sub(x.begun))
	l.Text("end", f.endName())
	s.lines.End(l)
}
