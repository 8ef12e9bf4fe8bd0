package sock

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Events reports events of many sockets at the cost of one goroutine. It is an epoll set, which
// the Go runtime's poller watches.
type Events struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}
}

// NewEvents starts a set that calls notify for each event, with the socket's token and whether
// the connection was reset. notify must not block. (EPOLLHUP is no reset: it means that both sides
// have sent their FIN, and bytes may precede the peer's.) Close ends the set.
func NewEvents(name string, notify func(token uint64, gone bool)) (*Events, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create the epoll set for %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare the epoll set for %s: %w", name, err)
	}
	e := &Events{file: os.NewFile(uintptr(fd), name), done: make(chan struct{})}
	if e.raw, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("watch the epoll set for %s: %w", name, err)
	}
	go func() {
		defer close(e.done)
		events := make([]unix.EpollEvent, 128)
		// The only error is that of close: the callback never stops by itself.
		_ = e.raw.Read(func(fd uintptr) bool {
			poll(int(fd), events, notify)
			return false
		})
	}()
	return e, nil
}

// Close ends the set and waits for its goroutine.
func (e *Events) Close() {
	e.file.Close()
	<-e.done
}

// watchEnd adds s to the set, to report each kind of end once: the peer's FIN, even behind unread
// bytes, and a reset. It returns false if the socket or the set is closed. Closing the socket
// removes it.
func (e *Events) watchEnd(s *Conn, token uint64) bool {
	return e.control(unix.EPOLL_CTL_ADD, s, unix.EPOLLRDHUP|unix.EPOLLET, token)
}

// WatchOnce reports once that there are bytes to read or that the connection ended, including what
// happened before the call. again says that s is in the set from an earlier call.
func (e *Events) WatchOnce(s *Conn, token uint64, again bool) bool {
	op := unix.EPOLL_CTL_ADD
	if again {
		op = unix.EPOLL_CTL_MOD
	}
	return e.control(op, s, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT, token)
}

// control adds s to the set or changes the events to report; false means that it could not.
func (e *Events) control(op int, s *Conn, events uint32, token uint64) (ok bool) {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	s.raw.Control(func(fd uintptr) {
		e.raw.Control(func(set uintptr) {
			ok = unix.EpollCtl(int(set), op, int(fd), &event) == nil
		})
	})
	return ok
}

// poll reports all events that are pending.
func poll(fd int, events []unix.EpollEvent, notify func(token uint64, gone bool)) {
	for {
		n, err := unix.EpollWait(fd, events, 0)
		if err == unix.EINTR {
			continue
		}
		for _, e := range events[:max(n, 0)] {
			notify(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events&unix.EPOLLERR != 0)
		}
		if n < len(events) {
			return
		}
	}
}
