package sock

import (
	"sync"
	"sync/atomic"
)

// Hangup says how a peer has ended its connection.
type Hangup uint8

const (
	HangupFIN   Hangup = iota + 1 // it will send nothing more
	HangupReset                   // the connection is gone
)

// Hangups detects that a peer has closed or reset while no goroutine reads the socket: a client in
// the queue, one whose tunnel is stuck in a write, an upstream whose connection is kept for reuse.
// It notices an end even behind unread bytes, and costs no goroutine per connection.
type Hangups struct {
	set *Events

	mu      sync.Mutex
	last    uint64
	watched map[uint64]*watch
}

// watch is one socket's registration. Its zero value is not registered.
type watch struct {
	set    atomic.Pointer[Hangups] // set once, with the set's lock held
	token  uint64
	notify func(Hangup)
}

// NewHangups starts the watcher; Close ends it.
func NewHangups() (*Hangups, error) {
	h := &Hangups{watched: make(map[uint64]*watch)}
	set, err := NewEvents("hang-ups", h.notify)
	h.set = set
	return h, err
}

// Close stops the watcher and waits for it.
func (h *Hangups) Close() { h.set.Close() }

// Add starts watching s, once. notify is called from the watcher's goroutine and must not block. An
// end that came before is reported too.
func (h *Hangups) Add(s *Conn, notify func(Hangup)) {
	h.mu.Lock()
	if s.watch.set.Load() != nil {
		h.mu.Unlock()
		return
	}
	h.last++
	token := h.last
	s.watch.token, s.watch.notify = token, notify
	s.watch.set.Store(h)
	h.watched[token] = &s.watch
	h.mu.Unlock()

	if !h.set.watchEnd(s, token) { // the socket was closed meanwhile
		s.watch.forget()
	}
}

// Watched reports whether the socket is, or was, registered.
func (s *Conn) Watched() bool { return s.watch.set.Load() != nil }

// forget drops the registration. Closing the socket removes it from the kernel's set.
func (w *watch) forget() {
	h := w.set.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	delete(h.watched, w.token)
	h.mu.Unlock()
}

// notify passes an event on to the socket's callback.
func (h *Hangups) notify(token uint64, gone bool) {
	h.mu.Lock()
	w := h.watched[token]
	h.mu.Unlock()
	if w == nil {
		return
	}
	kind := HangupFIN
	if gone {
		kind = HangupReset
	}
	w.notify(kind)
}
