package proxy

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// eventSet tells of many sockets at the cost of one goroutine: an epoll set that is itself watched
// by the Go runtime's poller.
type eventSet struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}
}

// newEventSet starts a set that calls tell, which must not block, for each event: with the token of
// the socket, and whether its connection was broken off. (EPOLLHUP alone says that both sides have
// sent their FIN, and there may be bytes to read before the peer's.) close ends it.
func newEventSet(name string, tell func(token uint64, gone bool)) (*eventSet, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create the epoll set for %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare the epoll set for %s: %w", name, err)
	}
	e := &eventSet{file: os.NewFile(uintptr(fd), name), done: make(chan struct{})}
	if e.raw, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("watch the epoll set for %s: %w", name, err)
	}
	go func() {
		defer close(e.done)
		events := make([]unix.EpollEvent, 128)
		// The error is that of close: the callback never asks to stop.
		_ = e.raw.Read(func(fd uintptr) bool {
			poll(int(fd), events, tell)
			return false
		})
	}()
	return e, nil
}

// close ends the set and waits for its goroutine.
func (e *eventSet) close() {
	e.file.Close()
	<-e.done
}

// watchEnd adds s to the set, to hear once of each end: the peer's FIN, also behind unread bytes,
// and a reset. It reports whether it could: not where either is closed. Closing a socket takes it
// out.
func (e *eventSet) watchEnd(s *sock, token uint64) bool {
	return e.control(unix.EPOLL_CTL_ADD, s, unix.EPOLLRDHUP|unix.EPOLLET, token)
}

// watchOnce is to hear once that there is something to read, or an end, also one that has come
// already. again says that the set has s from an earlier call.
func (e *eventSet) watchOnce(s *sock, token uint64, again bool) bool {
	op := unix.EPOLL_CTL_ADD
	if again {
		op = unix.EPOLL_CTL_MOD
	}
	return e.control(op, s, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT, token)
}

// control adds s to the set or changes what is told of it, and reports whether it could.
func (e *eventSet) control(op int, s *sock, events uint32, token uint64) (ok bool) {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	s.raw.Control(func(fd uintptr) {
		e.raw.Control(func(set uintptr) {
			ok = unix.EpollCtl(int(set), op, int(fd), &event) == nil
		})
	})
	return ok
}

// poll tells of all that has happened.
func poll(fd int, events []unix.EpollEvent, tell func(token uint64, gone bool)) {
	for {
		n, err := unix.EpollWait(fd, events, 0)
		if err == unix.EINTR {
			continue
		}
		for _, e := range events[:max(n, 0)] {
			tell(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events&unix.EPOLLERR != 0)
		}
		if n < len(events) {
			return
		}
	}
}
