package proxy

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is the use of an upstream connection.
type Kind uint32

// The kinds.
const (
	KindConnect Kind = iota + 1 // a CONNECT tunnel
	KindHTTP                    // a plain request in progress
	KindUpgrade                 // a tunnel after 101
	KindIdle                    // kept for reuse, no client
	KindSOCKS5                  // a tunnel that SOCKS5 asked for
)

// String is the kind's name in the API and the log, which call it the protocol.
func (k Kind) String() string {
	switch k {
	case KindConnect:
		return "connect"
	case KindHTTP:
		return "http"
	case KindUpgrade:
		return "upgrade"
	case KindIdle:
		return "idle"
	case KindSOCKS5:
		return "socks5"
	}
	return "unknown"
}

// Connection describes one upstream connection, from its admission to its slot's release.
type Connection struct {
	ID       string
	Client   string // address and port; "" while idle
	User     string // "" without authentication
	Host     string
	Port     uint16
	Kind     Kind
	Since    time.Time // the slot was granted
	BytesIn  uint64    // from the client to the upstream
	BytesOut uint64    // from the upstream to the client
	Limited  bool      // counts against a limit
}

// registry holds the flows with a slot. It is sharded so that connections that begin and end on
// different CPUs do not contend for one lock.
type registry struct {
	last   atomic.Uint64
	shards [16]struct {
		mu    sync.Mutex
		flows map[uint64]*flow
		// carried is the sum over the shard's flows, including ended ones.
		carried Bytes
		awake   *flow    // list of the tunnels that are awake
		_       [24]byte // one shard to a cache line
	}
}

func (r *registry) add(f *flow) {
	f.id = r.last.Add(1)
	shard := &r.shards[f.id%uint64(len(r.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.flows == nil {
		shard.flows = make(map[uint64]*flow)
	}
	shard.flows[f.id] = f
}

func (r *registry) remove(f *flow) {
	shard := &r.shards[f.id%uint64(len(r.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.carried.note(f)
	delete(shard.flows, f.id)
	if f.sleepState.awake {
		f.sleepState.unlink(&shard.awake)
	}
}

// sleepState is a tunnel's place in its shard's list of awake tunnels.
type sleepState struct {
	awake      bool
	minChecks  uint8 // idle checks before the tunnel sleeps, minus one; doubled at each wake-up
	checks     uint8 // idle checks in a row
	moved      uint64
	prev, next *flow
}

// maxChecks bounds minChecks, for tunnels that are idle again and again for a short time.
const maxChecks = 63

// markAwake adds a tunnel to the list of those that are awake.
func (r *registry) markAwake(f *flow) {
	shard := &r.shards[f.id%uint64(len(r.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	t := &f.sleepState
	if t.awake || shard.flows[f.id] != f {
		return
	}
	t.awake, t.checks, t.prev, t.next = true, 0, nil, shard.awake
	if t.next != nil {
		t.next.sleepState.prev = f
	}
	shard.awake = f
}

// unlink removes the tunnel from its shard's list.
func (t *sleepState) unlink(first **flow) {
	if t.next != nil {
		t.next.sleepState.prev = t.prev
	}
	if t.prev != nil {
		t.prev.sleepState.next = t.next
	} else {
		*first = t.next
	}
	t.awake, t.prev, t.next = false, nil, nil
}

// quiet checks the awake tunnels for traffic. It removes those from the list that have been idle
// for enough checks to sleep, and returns them.
func (r *registry) quiet() []*flow {
	var flows []*flow
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		for f := shard.awake; f != nil; {
			t, next := &f.sleepState, f.sleepState.next
			if moved := f.in.Load() + f.out.Load(); moved != t.moved {
				t.moved, t.checks = moved, 0
			} else if t.checks++; t.checks > t.minChecks {
				t.minChecks = min(2*t.minChecks+1, maxChecks)
				t.unlink(&shard.awake)
				flows = append(flows, f)
			}
			f = next
		}
		shard.mu.Unlock()
	}
	return flows
}

func (r *registry) get(id uint64) *flow {
	shard := &r.shards[id%uint64(len(r.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.flows[id]
}

// lasting returns the flows that began before t; each flow is returned once only.
func (r *registry) lasting(t time.Time) []*flow {
	var flows []*flow
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		for _, f := range shard.flows {
			if !f.lasts && f.since.Before(t) {
				f.lasts = true
				flows = append(flows, f)
			}
		}
		shard.mu.Unlock()
	}
	return flows
}

func (r *registry) count() (n int) {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		n += len(shard.flows)
		shard.mu.Unlock()
	}
	return n
}

// all returns a copy, so that the caller can end the flows without holding a lock.
func (r *registry) all() []*flow {
	var flows []*flow
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		for _, f := range shard.flows {
			flows = append(flows, f)
		}
		shard.mu.Unlock()
	}
	return flows
}

// Open returns the number of open upstream connections.
func (s *Server) Open() int { return s.flows.count() }

// Connections lists the open upstream connections, oldest first. If host is not "", only those to
// host (normalised, without port).
func (s *Server) Connections(host string) []Connection {
	flows := s.flows.all()
	slices.SortFunc(flows, func(a, b *flow) int { return cmp.Compare(a.id, b.id) })
	list := make([]Connection, 0, len(flows))
	for _, f := range flows {
		if host == "" || f.target.Host == host {
			list = append(list, f.describe())
		}
	}
	return list
}

// CloseConnection ends one connection. A plain exchange whose answer has not begun is answered 502;
// anything else is reset on both sides. False means that no connection has this id.
func (s *Server) CloseConnection(id string) bool {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false
	}
	f := s.flows.get(n)
	if f == nil {
		return false
	}
	f.close()
	return true
}

// close ends the connection on an operator's behalf.
func (f *flow) close() {
	f.mu.Lock()
	c := f.client
	f.mu.Unlock()
	if c == nil || c.sock.IsStuck() || !f.giveUp(c, errClosed) {
		f.abort(errClosed)
	}
}
