package connlimit

import (
	"net"
	"sync"
	"sync/atomic"
)

// Limiter enforces a Config. Make one with New; the zero Limiter has the zero Config, until
// SetConfig gives it another. All its methods may be called at any time, from any goroutine. It
// needs no closing: its goroutines end with the connections that they wait for or watch.
type Limiter struct {
	mu            sync.Mutex             // held by whoever changes config
	config        atomic.Pointer[Config] // nil: nobody has used the zero Limiter yet
	conns, reqs   *book                  // set before config is
	served        served
	watch         watch
	answers       atomic.Int64 // open because of Config.Answer
	guardsAnswers atomic.Int64
}

// New returns a Limiter that enforces c, or an error that names each problem in it.
func New(c Config) (*Limiter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Limiter{}
	l.begin(c.withDefaults())
	return l, nil
}

func (l *Limiter) begin(c Config) {
	conns, reqs := c.rules()
	l.conns, l.reqs = newBook(conns), newBook(reqs)
	l.config.Store(&c)
}

// current returns the configuration in force. Whoever uses conns or reqs calls it first: they are
// nil in a zero Limiter.
func (l *Limiter) current() *Config {
	if c := l.config.Load(); c != nil {
		return c
	}
	return l.beginZero()
}

func (l *Limiter) beginZero() *Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.config.Load() == nil {
		l.begin(Config{}.withDefaults())
	}
	return l.config.Load()
}

func (c *Config) rules() (conns, reqs *rules) {
	conns, reqs = compile(c.Connections, c, "connections"), compile(c.Requests, c, "requests")
	conns.exempt = true
	return conns, reqs
}

// Config returns the configuration in force, with the defaults put in.
func (l *Limiter) Config() Config { return l.current().withDefaults() }

// SetConfig replaces the configuration, all of it at once, or returns an error and changes nothing.
// A lower limit closes nothing: what is open counts, and new connections are refused until the
// count has fallen below the limit. It takes about 1 µs for each open connection, during which none
// is accepted.
func (l *Limiter) SetConfig(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	c = c.withDefaults()
	conns, reqs := c.rules()
	l.current()
	l.mu.Lock()
	l.conns.change(conns)
	l.reqs.change(reqs)
	l.config.Store(&c)
	l.mu.Unlock()
	l.conns.queue.serve()
	l.reqs.queue.serve()
	return nil
}

// Accept counts a connection. It returns a func to call when the connection has been closed; all
// calls but the first do nothing. If conn is over a limit, it returns an *Error, or another error
// where Config.Cluster can't answer, and a func that does nothing; conn stays open, and closing it
// is up to the caller.
//
// The address of conn is read once, here. Accept waits for Config.Cluster, for RemoteAddr of conn
// if that reads a header of the PROXY protocol first, and for nothing else. With either, call
// Accept on the connection's own goroutine.
//
// Accept allocates nothing if its caller calls or defers free. A free that is stored or passed on
// takes 24 bytes; Admit returns a value instead.
func (l *Limiter) Accept(conn net.Conn) (free func(), err error) {
	slot, err := l.Admit(conn)
	return slot.Free, err // small enough for the compiler to put it, and the func, into the caller
}

// Admit is Accept, but returns a Slot.
func (l *Limiter) Admit(conn net.Conn) (Slot, error) {
	addr, c := addrOf(conn), l.current()
	then := c.afterConn()
	slot, err := l.conns.take(addr, then)
	if err == nil && then == forCluster {
		return l.hold(closing(conn), l.conns, c, slot, addr)
	}
	return slot, err
}

// Slot is the right to one connection. The zero Slot is none. A Slot may be copied; it is freed
// with the first of its copies.
type Slot struct {
	ticket     *ticket
	generation uint64
}

// Free gives the slot back. All calls but the first do nothing.
func (s Slot) Free() {
	if s.ticket != nil {
		s.ticket.free(s.generation)
	}
}

// Wrap returns conn with a Close that also calls free, after conn has been closed: for passing a
// connection from Accept to code that will close it.
func Wrap(conn net.Conn, free func()) net.Conn { return &Conn{Conn: conn, free: sync.OnceFunc(free)} }

// NumOpen returns how many connections the client at addr has open: all those of its prefix, where
// a prefix is a client. nil, and addresses that are not IP addresses, are one client.
func (l *Limiter) NumOpen(addr net.Addr) int {
	l.current()
	return l.conns.open(netAddr(addr))
}

// NumRequests returns how many requests of the client at addr Handler is serving.
func (l *Limiter) NumRequests(addr net.Addr) int {
	l.current()
	return l.reqs.open(netAddr(addr))
}

// Counters say what has happened to connections, or to requests.
type Counters struct {
	Open     int64  // now
	Waiting  int64  // now
	Accepted uint64 // in all, by the limits here and, where it has a say, by the cluster
	Refused  uint64 // in all, by a limit here or in the cluster
	Lost     uint64 // in all: their slots in the cluster were lost, so they were ended
}

// Stats are the counters of a Limiter.
type Stats struct{ Connections, Requests Counters }

// Stats returns the counters. Each is exact; they are not all read at the same instant.
func (l *Limiter) Stats() Stats {
	l.current()
	return Stats{Connections: l.conns.counters(), Requests: l.reqs.counters()}
}
