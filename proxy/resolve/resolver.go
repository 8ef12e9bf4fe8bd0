package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// maxLookup bounds a lookup, also one whose waiters have all left.
	maxLookup = 30 * time.Second
	// lateFor is how long a family that is late may still come, for later connections.
	lateFor = 2 * time.Second
	// withheldFor is how long it is remembered that a family was withheld.
	withheldFor = 10 * time.Minute
	// withheldInRow is how many names in a row a family must be withheld for before it is not
	// waited for with any.
	withheldInRow = 3
	// The bounds of lookups under way. Further ones wait until one has ended, or their client gives
	// up.
	minLookups = 16
	maxLookups = 1024
	// socketsPerLookup is what a lookup needs to ask every server for both families. Each query has
	// one, also over TCP.
	socketsPerLookup = 2 * maxServers
)

// errClosed answers lookups of a resolver that is closed.
var errClosed = errors.New("the resolver is closed")

// Config is what a [Resolver] is made of.
type Config struct {
	// TTLMax is how long an answer is used at most, whatever its TTL. Raising it spares the name
	// servers queries about names with long TTLs, and keeps to a former address for longer after a
	// name has moved. 0 remembers nothing. See [Resolver.SetTTLMax].
	TTLMax time.Duration
	// OnLookup is called with the time that each lookup took which was not answered from memory. It
	// must take no lock. Nil is not called.
	OnLookup func(time.Duration)
	Log      hclog.Logger

	// Hosts and ResolvConf are the files that are followed; empty means the system's.
	Hosts, ResolvConf string

	// Port is where the name servers listen; 0 means 53.
	Port uint16
}

// Resolver finds the addresses of names. Make one with [New].
type Resolver struct {
	log      hclog.Logger
	onLookup func(time.Duration)
	port     uint16
	ttlMax   atomic.Int64
	files    files
	cache    *cache
	stats    stats
	began    time.Time

	// The network, replaced in tests.
	ask    func(context.Context, query) (*dns.Msg, error)
	routed func(netip.Addr) bool

	places  chan struct{} // one for each lookup under way
	sockets chan struct{} // one for each query
	offset  atomic.Uint32 // of the order of servers, where they rotate
	// withheld counts the names in a row for which a family did not come.
	withheld [families]atomic.Int32

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // of closed, held while work is begun from outside
	closed bool
	work   sync.WaitGroup
}

// New reads the files and makes a resolver.
func New(cfg Config) *Resolver {
	r := newResolver(cfg)
	r.lookAtFiles()
	return r
}

func newResolver(cfg Config) *Resolver {
	r := &Resolver{log: cfg.Log, onLookup: cfg.OnLookup, port: cfg.Port, cache: newCache(), began: time.Now(), ask: ask, routed: routed}
	if r.log == nil {
		r.log = hclog.NewNullLogger()
	}
	if r.onLookup == nil {
		r.onLookup = func(time.Duration) {}
	}
	if r.port == 0 {
		r.port = 53
	}
	r.files.hostsFile = file{path: or(cfg.Hosts, systemHosts), limit: maxHostsFile}
	r.files.resolvConf = file{path: or(cfg.ResolvConf, systemResolvConf), limit: maxResolvConf}
	r.SetTTLMax(cfg.TTLMax)
	n := lookupsAtOnce()
	r.places, r.sockets = make(chan struct{}, n), make(chan struct{}, n*socketsPerLookup)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func or(path, system string) string {
	if path == "" {
		return system
	}
	return path
}

// lookupsAtOnce is lookupsWithin the process's limit.
func lookupsAtOnce() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return minLookups
	}
	return lookupsWithin(int(min(limit.Cur, 1<<22)))
}

// lookupsWithin leaves most of a limit's descriptors to connections.
func lookupsWithin(limit int) int { return min(max(limit/64, minLookups), maxLookups) }

// Descriptors is how many a resolver may have open at a time, where the process may have limit.
// Connections that wait for a lookup have none beside their own: they share it, and queries wait
// for one another.
func Descriptors(limit int) int { return lookupsWithin(limit) * socketsPerLookup }

// routed reports whether this machine has a route to an address. Nothing is sent.
func routed(addr netip.Addr) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// SetTTLMax changes [Config.TTLMax]. It holds for answers that are remembered already, too.
func (r *Resolver) SetTTLMax(d time.Duration) { r.ttlMax.Store(int64(d)) }

func (r *Resolver) maxTTL() time.Duration { return time.Duration(r.ttlMax.Load()) }

// Close ends the lookups under way and waits for them.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

// begin adds to the work, unless the resolver is closed.
func (r *Resolver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.work.Add(1)
	return true
}

// Remembered returns the addresses of a name where they are known without asking: from the hosts
// file or an answer that has not expired. The name is absolute, in lower case, without the final
// dot. It never waits and makes no garbage.
func (r *Resolver) Remembered(name string) (Addrs, bool) {
	now := time.Now()
	if r.files.due(now.Sub(r.began)) {
		r.lookAtFiles()
	}
	if g := r.fixed(name); g != nil {
		r.stats.results[ResultHosts].Add(1)
		return Addrs{groups: g}, true
	}
	s := r.cache.shard(name)
	e := s.get(name)
	if e == nil || e.err != nil {
		return Addrs{}, false
	}
	until := e.until(r.maxTTL())
	if !now.Before(until) {
		return Addrs{}, false
	}
	s.remembered.Add(1)
	return r.use(e, until, now), true
}

// use is an entry's addresses, in the next rotation.
func (r *Resolver) use(e *entry, until, now time.Time) Addrs {
	if at := int64(now.Sub(r.began)); at-e.used.Load() > int64(usedStep) {
		e.used.Store(at)
	}
	a := Addrs{groups: &e.groups, until: until}
	if a.Len() > 1 {
		a.turn = e.turn.Add(1) - 1
	}
	return a
}

// localhost are the addresses of localhost where the hosts file does not name it (RFC 6761, section
// 6.3).
var localhost = &groups{
	native: {netip.IPv6Loopback()},
	v4:     {netip.AddrFrom4([4]byte{127, 0, 0, 1})},
}

// fixed are a name's addresses where no name server is asked for it; nil where one is.
func (r *Resolver) fixed(name string) *groups {
	if g := (*r.files.hosts.Load())[name]; g != nil {
		return g
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return localhost
	}
	return nil
}

// Lookup returns the addresses of a name, which is as for [Resolver.Remembered]. It asks the name
// servers where they are not remembered. All that want the same name wait for one lookup. The error
// is a [*net.DNSError], or the context's.
func (r *Resolver) Lookup(ctx context.Context, name string) (Addrs, error) {
	if a, ok := r.Remembered(name); ok {
		return a, nil
	}
	if name == "onion" || strings.HasSuffix(name, ".onion") { // RFC 7686, section 2
		r.stats.results[ResultNotFound].Add(1)
		return Addrs{}, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	s := r.cache.shard(name)
	f, e, err := r.join(s, name)
	switch {
	case err != nil:
		return Addrs{}, err
	case e != nil:
		s.remembered.Add(1)
		return r.answer(e)
	}
	select {
	case <-f.done:
		r.stats.results[resultOf(f.entry)].Add(1)
		return r.answer(f.entry)
	case <-ctx.Done():
		f.leave(s)
		r.stats.results[ResultAbandoned].Add(1)
		return Addrs{}, context.Cause(ctx)
	}
}

// answer is an entry's addresses, or why it has none.
func (r *Resolver) answer(e *entry) (Addrs, error) {
	if e.err != nil {
		return Addrs{}, e.err
	}
	return r.use(e, e.until(r.maxTTL()), time.Now()), nil
}

// join finds what is remembered of a name by now, or the lookup that the caller is to wait for.
func (r *Resolver) join(s *shard, name string) (*flight, *entry, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.entries[name]
	if known != nil && now.Before(known.until(r.maxTTL())) {
		return nil, known, nil
	}
	f := s.flights[name]
	if f == nil {
		if !r.begin() {
			return nil, nil, errClosed
		}
		f = &flight{name: strings.Clone(name), done: make(chan struct{}), abandoned: make(chan struct{}), known: known}
		s.flights[f.name] = f
		go r.fly(s, f)
	}
	f.waiting++
	f.shared = f.shared || f.waiting > 1
	return f, nil, nil
}
