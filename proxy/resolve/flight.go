package resolve

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// flight is a lookup under way, for all that wait for the name.
type flight struct {
	name  string
	known *entry        // what was known of the name before; nil: nothing
	done  chan struct{} // closed once entry is set
	entry *entry

	// Guarded by the shard's lock.
	waiting   int
	shared    bool          // by several
	flying    bool          // queries are on their way: it goes on without waiters
	abandoned chan struct{} // closed where the last waiter left before
}

// leave takes a waiter away.
func (f *flight) leave(s *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting == 0 && !f.flying {
		close(f.abandoned)
		if s.flights[f.name] == f {
			delete(s.flights, f.name)
		}
	}
}

// takeOff reports whether a connection still waits; from here on the flight goes on by itself.
func (f *flight) takeOff(s *shard) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.flying = f.waiting > 0
	return f.flying
}

// isShared reports whether several connections wait, or have waited.
func (f *flight) isShared(s *shard) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.shared
}

// fly runs a flight: it waits for a place, asks, answers all that wait, and then waits a little for
// a family that is late.
func (r *Resolver) fly(s *shard, f *flight) {
	defer r.work.Done()
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	case <-f.abandoned:
		return
	case <-r.ctx.Done():
		r.land(s, f, &entry{err: dnsError(f.name, kindSilent)})
		return
	}
	if !f.takeOff(s) {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, maxLookup)
	defer cancel()
	results := r.inquire(ctx, f.name)
	g := r.gathering(f)
	g.collect(ctx, results)
	r.onLookup(time.Since(began))
	e := r.newEntry(f, g, f.isShared(s))
	r.land(s, f, e)
	if e.err == nil && (g.missing(four) || g.missing(six)) {
		r.awaitLate(ctx, s, f, g, results)
	}
	r.noteWithheld(g)
}

// answered is a family's result.
type answered struct {
	family family
	result
}

// inquire asks for both families at once. Each result is sent, so that the channel needs no reader.
func (r *Resolver) inquire(ctx context.Context, name string) <-chan answered {
	results := make(chan answered, families)
	s := r.files.settings.Load()
	offset := 0
	if s.rotate {
		offset = int(r.offset.Add(1))
	}
	for f, qtype := range [families]uint16{four: dns.TypeA, six: dns.TypeAAAA} {
		if f := family(f); f == six && s.noAAAA {
			results <- answered{f, result{kind: kindNoData, ttl: maxNegativeTTL}}
			continue
		}
		q := dns.Question{Name: dns.Fqdn(name), Qtype: qtype, Qclass: dns.ClassINET}
		r.work.Add(1)
		go func() {
			defer r.work.Done()
			results <- answered{family(f), r.question(ctx, s, offset, q)}
		}()
	}
	return results
}

// gathering begins one for a flight. IPv6 is not waited for where there is no way to it, nor is a
// family that was withheld the last time, or with every name lately.
func (r *Resolver) gathering(f *flight) *gathering {
	g := new(gathering)
	for i := range g.eager {
		g.eager[i] = r.withheld[i].Load() >= withheldInRow ||
			f.known != nil && f.known.withheld[i] && time.Since(f.known.from) < withheldFor
	}
	g.eager[six] = g.eager[six] || !r.routed(anySix)
	return g
}

// anySix stands for all of IPv6; nothing is sent to it.
var anySix = netip.MustParseAddr("2001:db8::1")

// collect waits until there is enough. ctx ends the wait.
func (g *gathering) collect(ctx context.Context, results <-chan answered) {
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		done, until := g.enough(time.Now())
		if done {
			return
		}
		if !until.IsZero() {
			timer.Reset(time.Until(until))
		}
		select {
		case a := <-results:
			g.add(a.family, a.result, time.Now())
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// newEntry makes the entry that a flight leaves.
func (r *Resolver) newEntry(f *flight, g *gathering, shared bool) *entry {
	now := time.Now()
	o := g.outcome(shared)
	e := &entry{from: now, ttl: o.ttl}
	e.used.Store(int64(now.Sub(r.began)))
	if o.kind == kindAddrs {
		e.groups = *group(o.addrs, r.routed)
	} else {
		e.err = dnsError(f.name, o.kind)
	}
	return e
}

// dnsError is the error of a name without addresses.
func dnsError(name string, k kind) *net.DNSError {
	e := &net.DNSError{Name: name}
	switch k {
	case kindNoName:
		e.Err, e.IsNotFound = "no such host", true
	case kindNoData:
		e.Err, e.IsNotFound = "no addresses", true
	case kindSilent:
		e.Err, e.IsTimeout, e.IsTemporary = "no name server answered in time", true, true
	default:
		e.Err, e.IsTemporary = "no name server could answer", true
	}
	return e
}

// land remembers an entry and answers all that wait for it.
func (r *Resolver) land(s *shard, f *flight, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.ttl > 0 {
		s.put(f.name, e)
	}
	delete(s.flights, f.name)
	f.entry = e
	close(f.done)
}

// awaitLate adds the family that is missing to what is remembered, or notes that it is withheld.
func (r *Resolver) awaitLate(ctx context.Context, s *shard, f *flight, g *gathering, results <-chan answered) {
	ctx, cancel := context.WithTimeout(ctx, lateFor)
	defer cancel()
	select {
	case a := <-results:
		g.add(a.family, a.result, time.Now())
	case <-ctx.Done():
	}
	if r.ctx.Err() != nil {
		return
	}
	e := r.newEntry(f, g, true)
	e.from = f.entry.from
	for i := range e.withheld {
		e.withheld[i] = g.withheld(family(i))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[f.name] == f.entry { // no newer lookup has ended meanwhile
		s.put(f.name, e)
	}
}

// withheld reports whether a family did not come, while the other did.
func (g *gathering) withheld(f family) bool {
	r, other := g.results[f], g.results[f.other()]
	return other != nil && other.kind == kindAddrs && (r == nil || r.kind == kindSilent)
}

// noteWithheld counts the names in a row for which a family was withheld.
func (r *Resolver) noteWithheld(g *gathering) {
	for i := range r.withheld {
		switch f := family(i); {
		case g.withheld(f):
			r.withheld[f].Add(1)
		case g.results[f] != nil && g.results[f].kind >= kindNoName:
			r.withheld[f].Store(0)
		}
	}
}
