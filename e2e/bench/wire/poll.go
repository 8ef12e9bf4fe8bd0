//go:build linux

package wire

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a loop waits for events before it looks whether it should stop.
const patience = 50 * time.Millisecond

// poller is an epoll set. Its events carry an index and a generation.
type poller struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll set: %w", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) close() { _ = unix.Close(p.fd) }

// add watches fd for everything, edge-triggered; closing fd takes it out.
func (p *poller) add(fd int, index, generation int32) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: index, Pad: generation}
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event)
}

// wait returns what has happened, nothing after patience.
func (p *poller) wait() ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.fd, p.events[:], int(patience.Milliseconds()))
	if err != nil && err != unix.EINTR {
		return nil, fmt.Errorf("wait for events: %w", err)
	}
	return p.events[:max(n, 0)], nil
}

// readable reports whether an event is worth a read: of bytes, an end, or an error.
func readable(e uint32) bool {
	return e&unix.EPOLLIN != 0 || ended(e)
}

// ended reports whether an event tells of the peer's end, behind whatever there is to read.
func ended(e uint32) bool { return e&(unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 }

// headScan finds the empty line that ends a head, over any number of reads.
type headScan uint8

// next takes more bytes and returns how many of them belong to the head; done says that it is
// complete.
func (s *headScan) next(b []byte) (n int, done bool) {
	for i, c := range b {
		switch {
		case c == "\r\n\r\n"[*s]:
			if *s++; *s == 4 {
				*s = 0
				return i + 1, true
			}
		case c == '\r':
			*s = 1
		default:
			*s = 0
		}
	}
	return len(b), false
}
