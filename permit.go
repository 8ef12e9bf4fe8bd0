package weir

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Errors of [Node.Acquire]. Those of a limit come in a [*LimitError], and say what was in the way.
var (
	// ErrSubject: the subject names nothing, or something that can't be.
	ErrSubject = errors.New("no such subject")
	// ErrNoLease: the node has no live session with its cluster. Subjects without a limit need none,
	// once the node knows the limits: from its cluster, or from a former run by its data directory.
	ErrNoLease = lease.ErrNoLease
	// ErrDraining: the node drains, and takes no new work. A wait that is under way when draining
	// begins ends with it.
	ErrDraining = lease.ErrDraining
	// ErrBlocked: the limit is 0.
	ErrBlocked = lease.ErrBlocked
	// ErrOverLimit: the limit is reached, and it has no queue.
	ErrOverLimit = lease.ErrOverLimit
	// ErrQueueFull: the limit is reached, and its queue is full.
	ErrQueueFull = lease.ErrQueueFull
	// ErrQueueTimeout: the limit is reached, and nothing came free within its queue's timeout.
	ErrQueueTimeout = lease.ErrQueueTimeout
)

// LimitError says which limit was in the way: [errors.Is] tells [ErrBlocked], [ErrOverLimit],
// [ErrQueueFull] and [ErrQueueTimeout] apart.
type LimitError struct {
	Scope    string // "total", "client", "user", "host" or "key"
	Resource string // "connections" or "requests"
	// Key is the name that is counted: a host, an address, a user or a key; of a shared limit, its
	// pattern; of scope total "".
	Key string
	why *lease.LimitError
}

// Error names the limit and the reason.
func (e *LimitError) Error() string { return e.why.Error() }

// Unwrap is the reason.
func (e *LimitError) Unwrap() error { return e.why.Why }

// RetryAfter is how long it is at least until it is worth to try again. For a rate that is when the
// next token comes. ok is false where that can't be known: connections end when they like, and a
// limit of 0 stays.
func (e *LimitError) RetryAfter() (d time.Duration, ok bool) {
	return e.why.RetryAfter, e.why.RetryAfter > 0
}

// Blocked reports whether the limit is 0: trying again is of no use until it is changed.
func (e *LimitError) Blocked() bool { return errors.Is(e.why.Why, ErrBlocked) }

// Subject is what a permit is for. It counts under the limits of each scope that it has a name for.
type Subject struct {
	// Host is the destination of a connection that the program will make: "api.example.com:443", or
	// without a port, which is then under no limit that names one. A permit for a host and a
	// connection through the proxies share one count, also that of scope total.
	Host string
	// Client is the address on whose behalf the program acts; the zero Addr is nobody's. Addresses
	// that differ in their zone alone are one client: it names an interface of one machine.
	Client netip.Addr
	// User is the user on whose behalf the program acts, without a colon, as users of a proxy are; ""
	// is none.
	User string
	// Key is any name that the program chooses, of 1 to 255 printable characters; "" is none.
	Key string
}

// parse returns the subject as limits are looked up for it.
func (s *Subject) parse() (out limit.Subject, err error) {
	if *s == (Subject{}) {
		return out, fmt.Errorf("%w: it is empty: set Host, Client, User or Key", ErrSubject)
	}
	if s.Host != "" {
		if out.Host, err = limit.ParseOptionalPort(s.Host); err != nil {
			return out, fmt.Errorf("%w: %w", ErrSubject, err)
		}
	}
	for _, name := range []string{s.User, s.Key} {
		if name == "" {
			continue
		}
		if err := limit.CheckName(name); err != nil {
			return out, fmt.Errorf("%w: %w", ErrSubject, err)
		}
	}
	if strings.Contains(s.User, ":") { // no limit can name it, and none be explained
		return out, fmt.Errorf("%w: user %q has a colon, which no user's name has (RFC 7617, section 2)", ErrSubject, s.User)
	}
	out.Client, out.User, out.Key = limit.ClientOf(s.Client), s.User, s.Key
	out.Direct = s.Host == ""
	return out, nil
}

// Permit is the right to what its subject names: one connection, or whatever a key stands for. It
// holds a slot of each limit on connections that the subject is under; limits that are set later
// count it, too. Its methods are safe for concurrent use.
type Permit struct {
	node    *Node
	subject limit.Subject
	request lease.Request
	slot    lease.Slot // of the host, if there is one
	hosted  bool
	onLost  func() // nil for none; called at most once

	prev, next *Permit // in the node's list

	mu       sync.Mutex
	released bool
	gone     bool          // lost
	lost     chan struct{} // nil until it is asked for
}

// Acquire takes a slot of each limit on connections, and a token of each limit on requests, that
// the subject is under. It waits as long as the limits' queues allow, or until ctx ends; then it
// holds nothing. If ctx has ended before, it takes nothing, also where nothing is in the way.
// Errors are a [*LimitError], [ErrNoLease], [ErrDraining], [ErrClosed], [ErrSubject], or the
// context's. If the wait in a queue ends with ctx's deadline, the error is both a [*LimitError]
// and the context's.
func (n *Node) Acquire(ctx context.Context, s Subject) (*Permit, error) {
	subject, err := s.parse()
	if err != nil {
		return nil, err
	}
	p := &Permit{node: n, subject: subject, hosted: s.Host != ""}
	if err := p.acquire(ctx); err != nil {
		return nil, err
	}
	if err := p.take(ctx); err != nil {
		p.Release()
		return nil, n.acquireError(err)
	}
	return p, nil
}

// take takes the tokens of a permit that has all its slots. If a limit on the host, set while it
// waited for them, has no room for the permit, it takes a slot as if it had none; tokens it then
// takes anew, because all are for the moment at which it begins.
func (p *Permit) take(ctx context.Context) error {
	m := p.node.manager
	for began, waited := time.Now(), p.waited(); ; {
		if err := m.Take(ctx, &p.subject, waited); err != nil || !p.hosted || p.slot.Covered() {
			return err
		}
		p.slot.Release()
		if err := m.Acquire(ctx, &p.slot, p.subject.Host, (*holder)(p)); err != nil {
			return err
		}
		waited = p.request.Waited() + time.Since(began)
	}
}

// Hold takes a slot of each limit on connections of scope client and key that client and key are
// under; the zero Addr and "" are under none. client is as in [Subject]. lost, if not nil, is
// called at most once, on a goroutine of its own, when the slots are lost: what they were for must
// end at once, and then be released. Errors are those of [Node.Acquire].
//
// It is for package connlimit, whose limits then hold over all nodes of the cluster.
func (n *Node) Hold(ctx context.Context, client netip.Addr, key string, lost func()) (release func(), err error) {
	if !client.IsValid() && key == "" {
		return func() {}, nil
	}
	subject, err := (&Subject{Client: client, Key: key}).parse()
	if err != nil {
		return nil, err
	}
	p := &Permit{node: n, subject: subject}
	if err := p.acquire(ctx); err != nil {
		return nil, err
	}
	p.tell(lost)
	return p.Release, nil
}

// tell makes lost, if not nil, hear of the permit's loss, also of one that has come already.
func (p *Permit) tell(lost func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onLost = lost
	if p.gone && lost != nil {
		go lost()
	}
}

// acquire takes the slots, and lists the permit.
func (p *Permit) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n := p.node
	if !n.permits.add(p) {
		return ErrClosed // also while it drains to its end
	}
	if n.proxy.Draining() {
		n.permits.remove(p)
		return ErrDraining
	}
	err := n.manager.Begin(ctx, &p.request, &p.subject, (*holder)(p))
	if err == nil && p.hosted {
		if err = n.manager.Acquire(ctx, &p.slot, p.subject.Host, (*holder)(p)); err != nil {
			p.request.End()
		}
	}
	if err != nil {
		n.permits.remove(p)
		return n.acquireError(err)
	}
	return nil
}

// waited is how long the slots were waited for.
func (p *Permit) waited() time.Duration {
	if p.hosted {
		return p.request.Waited() + p.slot.Waited()
	}
	return p.request.Waited()
}

// acquireError is an error of the lease as this package has it.
func (n *Node) acquireError(err error) error {
	var over *lease.LimitError
	if !errors.As(err, &over) {
		return err
	}
	refused := &LimitError{Scope: over.Key.Scope.String(), Resource: over.Key.Resource.String(), Key: over.Key.Name, why: over}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", refused, context.DeadlineExceeded)
	}
	return refused
}

// Release gives the permit back: the connection must have ended, as its other end sees it. A second
// call does nothing.
func (p *Permit) Release() {
	p.mu.Lock()
	released := p.released
	p.released = true
	p.mu.Unlock()
	if released {
		return
	}
	if p.hosted {
		p.slot.Release()
	}
	p.request.End()
	p.node.permits.remove(p)
}

// Lost returns a channel that is closed when the permit is lost: the node can't prove its session
// any more, its limit was lowered with [Evict], or [Node.Close] has waited long enough. What the
// permit was for must end at once: others may be given its slots after the lease's ttl. Release it
// then as well.
func (p *Permit) Lost() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = make(chan struct{})
		if p.gone {
			close(p.lost)
		}
	}
	return p.lost
}

// Live reports whether the permit may be used at this moment. It is false from the lease's deadline
// on, also before Lost is closed, as in a process that was stopped and has just been woken: ask
// before each use where that matters.
func (p *Permit) Live() bool {
	p.mu.Lock()
	ended := p.released || p.gone
	p.mu.Unlock()
	return !ended && p.request.Live() && (!p.hosted || p.slot.Live())
}

// sever marks the permit as lost.
func (p *Permit) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released || p.gone {
		return
	}
	p.gone = true
	if p.lost != nil {
		close(p.lost)
	}
	if p.onLost != nil {
		go p.onLost()
	}
}

// holder is a permit as the lease knows it.
type holder Permit

// Sever implements [lease.Holder].
func (h *holder) Sever(lease.Reason) { (*Permit)(h).sever() }

// permits are those of a node that have not been released. The zero value is ready.
type permits struct {
	mu     sync.Mutex
	first  *Permit
	count  int
	closed bool
	empty  chan struct{} // made by close; closed when the last is released
}

// add lists a permit; false once the list is closed.
func (ps *permits) add(p *Permit) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return false
	}
	p.next = ps.first
	if p.next != nil {
		p.next.prev = p
	}
	ps.first = p
	ps.count++
	return true
}

func (ps *permits) remove(p *Permit) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		ps.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	ps.count--
	if ps.closed && ps.count == 0 {
		close(ps.empty)
	}
}

// close lets no more permits in. The channel is closed when the last one has been released.
func (ps *permits) close() <-chan struct{} {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if !ps.closed {
		ps.closed, ps.empty = true, make(chan struct{})
		if ps.count == 0 {
			close(ps.empty)
		}
	}
	return ps.empty
}

// sever marks all permits as lost.
func (ps *permits) sever() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := ps.first; p != nil; p = p.next {
		p.sever()
	}
}
