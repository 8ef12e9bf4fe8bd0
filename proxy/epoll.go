package proxy

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// epollSet is an epoll set that is itself watched by the Go runtime's poller: it tells of many sockets at the cost of one
// goroutine.
type epollSet struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}
}

// newEpollSet starts a set that calls tell, which must not block, for each event; close ends it.
func newEpollSet(name string, tell func(token uint64, events uint32)) (*epollSet, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create the epoll set for %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare the epoll set for %s: %w", name, err)
	}
	e := &epollSet{file: os.NewFile(uintptr(fd), name), done: make(chan struct{})}
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
func (e *epollSet) close() {
	e.file.Close()
	<-e.done
}

// control adds s to the set or changes what is told of it, and reports whether it could: not where either is closed. Closing a
// socket takes it out.
func (e *epollSet) control(op int, s *sock, events uint32, token uint64) (ok bool) {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	s.raw.Control(func(fd uintptr) {
		e.raw.Control(func(set uintptr) {
			ok = unix.EpollCtl(int(set), op, int(fd), &event) == nil
		})
	})
	return ok
}

// poll tells of all that has happened.
func poll(fd int, events []unix.EpollEvent, tell func(token uint64, events uint32)) {
	for {
		n, err := unix.EpollWait(fd, events, 0)
		if err == unix.EINTR {
			continue
		}
		for _, e := range events[:max(n, 0)] {
			tell(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events)
		}
		if n < len(events) {
			return
		}
	}
}
