package resolve

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/dns"
)

const (
	// patience is how long a server may take before the next one is asked too. Raising it makes a
	// dead server cost more, the first time; lowering it asks two servers about names that take
	// long to find.
	patience = 400 * time.Millisecond
	// roundPause is how long a server that was asked is left alone before it is asked again.
	roundPause = time.Second
)

// reply is the outcome of one query.
type reply struct {
	*asked
	result result
}

// asked is a query under way.
type asked struct {
	server *server
	at     time.Time
	done   bool
}

// question asks the servers for one family of a name and returns the first conclusive result. One
// server is asked at first. Another is asked as soon as one fails, or when none has answered for a
// while; those asked before may still answer.
func (r *Resolver) question(ctx context.Context, s *settings, offset int, q dns.Question) result {
	servers, probes := order(s.servers, offset, time.Now())
	replies := make(chan reply, len(probes)+len(servers)*s.attempts) // no query waits for its reader
	var queries []*asked
	send := func(to *server) {
		a := &asked{server: to, at: time.Now()}
		queries = append(queries, a)
		r.work.Add(1)
		go func() {
			defer r.work.Done()
			replies <- reply{a, r.query(s, to, q, a.at)}
		}()
	}
	for _, to := range probes {
		send(to)
	}
	plan, pending := plan{servers: servers, attempts: s.attempts}, len(probes)
	next := time.NewTimer(patience)
	defer next.Stop()
	sendNext := func() {
		if to, pause, ok := plan.next(); ok {
			send(to)
			pending++
			next.Reset(pause)
		}
	}
	sendNext()
	worst := result{kind: kindSilent}
	for {
		if pending == 0 && plan.over() {
			return worst
		}
		select {
		case <-next.C:
			sendNext()
		case reply := <-replies:
			pending--
			reply.done = true
			if reply.result.conclusive() {
				judge(queries, plan.failed, time.Now())
				return reply.result
			}
			if reply.result.kind == kindFailed {
				worst = reply.result
			}
			plan.drop(reply.server)
			sendNext()
		case <-ctx.Done():
			return worst
		}
	}
}

// judge sends servers to the end of the order that a later one has outdone: they failed where
// another server could answer, or have been silent for longer than patience.
func judge(queries []*asked, failed []*server, now time.Time) {
	for _, s := range failed {
		s.outdone(now)
	}
	for _, a := range queries {
		if !a.done && now.Sub(a.at) >= patience {
			a.server.outdone(now)
		}
	}
}

// plan says which server is asked next, and how long to wait before the one after it.
type plan struct {
	servers  []*server // that have not failed
	attempts int
	failed   []*server

	i, round int
}

func (p *plan) next() (to *server, pause time.Duration, ok bool) {
	if p.i >= len(p.servers) {
		p.i = 0
		p.round++
	}
	if p.over() {
		return nil, 0, false
	}
	to = p.servers[p.i]
	p.i++
	if p.i < len(p.servers) && p.round == 0 {
		return to, patience, true
	}
	return to, roundPause, true
}

// over reports whether every server has been asked as often as it may.
func (p *plan) over() bool {
	return len(p.servers) == 0 || p.round >= p.attempts || p.round == p.attempts-1 && p.i >= len(p.servers)
}

// drop leaves out a server that has failed.
func (p *plan) drop(s *server) {
	for i, known := range p.servers {
		if known != s {
			continue
		}
		p.servers = append(append([]*server(nil), p.servers[:i]...), p.servers[i+1:]...)
		if i < p.i {
			p.i--
		}
		p.failed = append(p.failed, s)
		return
	}
}

// query asks one server once. It may outlive its question: a late answer still says that the server
// lives.
func (r *Resolver) query(s *settings, to *server, q dns.Question, at time.Time) result {
	select {
	case r.sockets <- struct{}{}:
		defer func() { <-r.sockets }()
	case <-r.ctx.Done():
		return result{kind: kindSilent}
	}
	ctx, cancel := context.WithTimeout(r.ctx, s.timeout)
	defer cancel()
	query := query{to: to.addr, q: q, tcp: s.useTCP, edns: !to.isPlain()}
	m, err := r.ask(ctx, query)
	if err == nil && query.edns && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		to.setPlain() // RFC 6891, section 7
		query.edns = false
		m, err = r.ask(ctx, query)
	}
	r.stats.queries.Add(1)
	switch {
	case r.ctx.Err() != nil:
		return result{kind: kindSilent}
	case errors.Is(err, errMismatch):
		return result{kind: kindFailed}
	case err != nil:
		r.report(to, to.silent(at, time.Now()), err)
		return result{kind: kindSilent}
	}
	r.report(to, to.answered(at, time.Now()), nil)
	return read(m, q)
}

// report logs that a server has ceased to answer, or does so again.
func (r *Resolver) report(s *server, n news, err error) {
	switch n {
	case newsSilent:
		r.log.Warn("name server does not answer", "server", s.addr.String(), "error", err,
			"hint", "check that it runs, that UDP and TCP to its port 53 pass, and that "+r.files.resolvConf.path+" should name it")
	case newsBack:
		r.log.Info("name server answers again", "server", s.addr.String())
	}
}
