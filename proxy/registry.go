package proxy

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says what an upstream connection is used for.
type Kind uint32

// The kinds.
const (
	KindConnect Kind = iota + 1 // a CONNECT tunnel
	KindHTTP                    // a plain request in progress
	KindUpgrade                 // a tunnel after 101
	KindIdle                    // kept for reuse, no client
)

// String is the kind's name in the API.
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
	Since    time.Time // of the upstream connection
	BytesIn  uint64    // from the client to the upstream
	BytesOut uint64    // from the upstream to the client
	Limited  bool      // counts against a limit
}

// registry holds the flows that have a slot. Its shards keep connections that begin and end on
// different cores apart.
type registry struct {
	last   atomic.Uint64
	shards [16]struct {
		mu    sync.Mutex
		flows map[uint64]*flow
		// carried is the sum of what the shard's flows have carried, those that have ended too.
		carried Bytes
		awake   *flow    // the tunnels that do not sleep
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

// sleepState is a tunnel's place among those that are awake.
type sleepState struct {
	awake      bool
	minChecks  uint8 // looks at a quiet tunnel before it sleeps, less one; doubles each time that it has woken
	checks     uint8 // since it has been quiet
	moved      uint64
	prev, next *flow
}

// maxChecks is that of a tunnel that is quiet again and again for a short time.
const maxChecks = 63

// markAwake says that a tunnel does not sleep.
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

// unlink takes the tunnel out of its shard's list.
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

// quiet looks at the tunnels that are awake, takes those out that have been quiet for long enough
// to sleep, and returns them.
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

// lasting returns, once for each, the flows that began before t.
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

// all copies the flows, so that the caller may end them.
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

// Open counts the open upstream connections.
func (s *Server) Open() int { return s.flows.count() }

// Connections lists the open upstream connections, to host where it is not "" (normalised, without
// a port), oldest first.
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

// CloseConnection ends one connection: a plain exchange that no answer has come to yet is answered
// 502, all else is reset on both sides. False says that there is none with this id.
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

// close ends the connection for an operator.
func (f *flow) close() {
	f.mu.Lock()
	c := f.client
	f.mu.Unlock()
	if c == nil || c.sock.stuck.Load() || !f.giveUp(c, errClosed) {
		f.abort(errClosed)
	}
}
