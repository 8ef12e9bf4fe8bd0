package proxy

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// hangup is what a peer did to its connection.
type hangup uint8

const (
	hangupFIN   hangup = iota + 1 // it will send nothing more
	hangupReset                   // the connection is gone
)

// hangups watches sockets that nobody reads for their peer's FIN or reset: a client in the queue, one
// whose tunnel is stuck in a write, a kept-alive upstream connection. It is one edge-triggered epoll set, which
// hears of the end also behind unread bytes, and costs no goroutine per connection.
type hangups struct {
	file *os.File // the epoll set, itself watched by the Go runtime's poller
	raw  syscall.RawConn
	done chan struct{}

	mu      sync.Mutex
	last    uint64
	watched map[uint64]*watch
}

// watch is one socket's place in the set. Its zero value is not in any.
type watch struct {
	set   atomic.Pointer[hangups] // set once, with the set's lock held
	token uint64
	tell  func(hangup)
}

// newHangups starts the watcher; close ends it.
func newHangups() (*hangups, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create the epoll set that watches for hang-ups: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare the epoll set that watches for hang-ups: %w", err)
	}
	h := &hangups{
		file:    os.NewFile(uintptr(fd), "hangups"),
		done:    make(chan struct{}),
		watched: make(map[uint64]*watch),
	}
	if h.raw, err = h.file.SyscallConn(); err != nil {
		h.file.Close()
		return nil, fmt.Errorf("watch the epoll set for hang-ups: %w", err)
	}
	go func() {
		defer close(h.done)
		events := make([]unix.EpollEvent, 128)
		// The error is that of close: the callback never asks to stop.
		_ = h.raw.Read(func(fd uintptr) bool {
			h.poll(int(fd), events)
			return false
		})
	}()
	return h, nil
}

// close stops the watcher and waits for it.
func (h *hangups) close() {
	h.file.Close()
	<-h.done
}

// add starts watching s, once; tell is called from the watcher's goroutine and must not block. An end
// that has come already is told too.
func (h *hangups) add(s *sock, tell func(hangup)) {
	h.mu.Lock()
	if s.watch.set.Load() != nil {
		h.mu.Unlock()
		return
	}
	h.last++
	token := h.last
	s.watch.token, s.watch.tell = token, tell
	s.watch.set.Store(h)
	h.watched[token] = &s.watch
	h.mu.Unlock()

	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(uint32(token)),
		Pad:    int32(uint32(token >> 32)),
	}
	added := false
	s.raw.Control(func(fd uintptr) {
		h.raw.Control(func(set uintptr) {
			added = unix.EpollCtl(int(set), unix.EPOLL_CTL_ADD, int(fd), &event) == nil
		})
	})
	if !added { // closed meanwhile
		s.watch.forget()
	}
}

// on reports whether the socket is, or was, in a set.
func (w *watch) on() bool { return w.set.Load() != nil }

// forget drops the registration; closing the socket takes it out of the kernel's set.
func (w *watch) forget() {
	h := w.set.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	delete(h.watched, w.token)
	h.mu.Unlock()
}

// poll tells of all that has happened.
func (h *hangups) poll(fd int, events []unix.EpollEvent) {
	for {
		n, err := unix.EpollWait(fd, events, 0)
		if err == unix.EINTR {
			continue
		}
		for _, e := range events[:max(n, 0)] {
			token := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			h.mu.Lock()
			w := h.watched[token]
			h.mu.Unlock()
			if w == nil {
				continue
			}
			// HUP without ERR may also be the ordinary end of both directions: who is told knows.
			kind := hangupFIN
			if e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
				kind = hangupReset
			}
			w.tell(kind)
		}
		if n < len(events) {
			return
		}
	}
}
