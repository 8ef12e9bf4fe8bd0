package sock

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Events reports events of many sockets at the cost of one goroutine and its thread. It is a
// kqueue, which the Go runtime's poller can't watch.
type Events struct {
	done chan struct{}

	mu     sync.RWMutex // a reader may use fd
	fd     int
	closed bool
}

// kevent is unix.Kevent_t with a number in place of its pointer. Tokens are no pointers, and the
// garbage collector must not take them for some.
type kevent struct {
	ident  uint64
	filter int16
	flags  uint16
	fflags uint32
	data   int64
	token  uintptr
}

// These fail to compile if the two differ in size.
var (
	_ [unsafe.Sizeof(kevent{}) - unsafe.Sizeof(unix.Kevent_t{})]struct{}
	_ [unsafe.Sizeof(unix.Kevent_t{}) - unsafe.Sizeof(kevent{})]struct{}
)

// asKevents converts events to the type of package unix.
func asKevents(events []kevent) []unix.Kevent_t {
	return unsafe.Slice((*unix.Kevent_t)(unsafe.Pointer(unsafe.SliceData(events))), len(events))
}

// stopIdent is the event by which close wakes the goroutine.
const stopIdent = 0

// NewEvents starts a set that calls notify for each event, with the socket's token and whether
// the connection was reset. notify must not block. Close ends the set.
func NewEvents(name string, notify func(token uint64, gone bool)) (*Events, error) {
	fd, err := unix.Kqueue()
	if err != nil {
		return nil, fmt.Errorf("create the kqueue for %s: %w", name, err)
	}
	unix.CloseOnExec(fd) // a child would not inherit it anyway
	e := &Events{fd: fd, done: make(chan struct{})}
	if err := e.change(kevent{ident: stopIdent, filter: unix.EVFILT_USER, flags: unix.EV_ADD | unix.EV_CLEAR}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare the kqueue for %s: %w", name, err)
	}
	go func() {
		defer close(e.done)
		events := make([]kevent, 128)
		for poll(fd, events, notify) {
		}
	}()
	return e, nil
}

// Close ends the set and waits for its goroutine.
func (e *Events) Close() {
	e.mu.Lock()
	first := !e.closed
	e.closed = true
	e.mu.Unlock()
	if first {
		_ = e.change(kevent{ident: stopIdent, filter: unix.EVFILT_USER, fflags: unix.NOTE_TRIGGER})
	}
	<-e.done
	if first {
		unix.Close(e.fd)
	}
}

// watchEnd adds s to the set, to report each kind of end once: the peer's FIN, even behind unread
// bytes, and a reset. It returns false if the socket or the set is closed. Closing the socket
// removes it.
func (e *Events) watchEnd(s *Conn, token uint64) bool {
	// Bytes are reported only once the buffer is full, but an end always is.
	return e.add(s, kevent{flags: unix.EV_ADD | unix.EV_CLEAR, fflags: unix.NOTE_LOWAT, data: 1 << 30, token: uintptr(token)})
}

// WatchOnce reports once that there are bytes to read or that the connection ended, including what
// happened before the call. The kqueue forgets s with each report, so s is always added anew.
func (e *Events) WatchOnce(s *Conn, token uint64, _ bool) bool {
	return e.add(s, kevent{flags: unix.EV_ADD | unix.EV_ONESHOT, token: uintptr(token)})
}

// add sets the read events of s to report.
func (e *Events) add(s *Conn, event kevent) (ok bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return false
	}
	event.filter = unix.EVFILT_READ
	s.raw.Control(func(fd uintptr) {
		event.ident = uint64(fd)
		ok = e.change(event) == nil
	})
	return ok
}

// change makes one change to the set.
func (e *Events) change(event kevent) error {
	_, err := unix.Kevent(e.fd, asKevents([]kevent{event}), nil, nil)
	return err
}

// poll waits for events and reports them; false means that the set is being closed.
func poll(fd int, events []kevent, notify func(token uint64, gone bool)) bool {
	n, err := unix.Kevent(fd, nil, asKevents(events), nil)
	if err != nil {
		return err == unix.EINTR
	}
	for _, e := range events[:n] {
		ended := e.flags&unix.EV_EOF != 0
		switch {
		case e.filter == unix.EVFILT_USER:
			return false
		case e.flags&unix.EV_CLEAR != 0 && !ended: // bytes, on a socket of watchEnd
		default:
			notify(uint64(e.token), ended && e.fflags != 0) // the error that the next read would have
		}
	}
	return true
}
