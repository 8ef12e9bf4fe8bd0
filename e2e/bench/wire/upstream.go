//go:build linux

package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What an upstream understands, by the first byte of a connection.
const (
	pingByte = 'p' // PingSize bytes are answered with as many, again and again
	bulkByte = 'b' // answered with zeros for ever
	rateByte = 'r' // the same at a rate, which 8 bytes more say, in bytes a second, big endian
	someByte = 's' // answered with SomeSize zeros, and nothing more
	// Anything else is HTTP/1.1: each head is answered with BodySize bytes.
)

// PingSize is the size of a small round trip's two messages, BodySize that of an HTTP answer's
// body, in bytes.
const (
	PingSize = 64
	BodySize = 256
	SomeSize = 64 << 10
)

// Ping and Bulk are what a client sends in its tunnel.
func Ping() []byte { return bytes.Repeat([]byte{pingByte}, PingSize) }

// Bulk asks for bytes without end.
func Bulk() []byte { return []byte{bulkByte} }

// BulkAt asks for bytes without end, so many a second: the upstream's kernel paces them, as a slow
// link would.
func BulkAt(bytesPerSecond uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{rateByte}, bytesPerSecond)
}

// Some asks for SomeSize bytes, which fit into the sockets' buffers: many flows that are slowed
// down would fill the kernel's memory otherwise.
func Some() []byte { return []byte{someByte} }

// Upstream is a running server. Its methods may be called from any goroutine.
type Upstream struct {
	ports     []uint16
	listeners []int
	poll      *poller
	conns     []served // by descriptor
	accepted  atomic.Int64
	stop      atomic.Bool
	done      sync.WaitGroup

	ping, response, zeros, in []byte
}

// served is one connection.
type served struct {
	open bool
	mode byte // 0 until the first byte
	left int  // of a ping, bytes still to come; of some, bytes still to be sent
	scan headScan
}

// StartUpstream listens on the given number of ports of the loopback interface, at all its
// addresses: each of 127.0.0.0/8 is a host of its own. Several ports spare the kernel the search
// for a free one on the client's side.
func StartUpstream(ports int) (*Upstream, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	u := &Upstream{
		poll: poll, ping: Ping(), zeros: make([]byte, 256<<10), in: make([]byte, 64<<10),
		response: append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "+strconv.Itoa(BodySize)+"\r\n\r\n"),
			bytes.Repeat([]byte{'.'}, BodySize)...),
	}
	for range ports {
		if err := u.listen(); err != nil {
			u.release()
			return nil, fmt.Errorf("upstream: %w", err)
		}
	}
	u.done.Go(u.run)
	return u, nil
}

// Ports are those that the server listens on.
func (u *Upstream) Ports() []uint16 { return u.ports }

// Accepted is the number of connections taken so far.
func (u *Upstream) Accepted() int64 { return u.accepted.Load() }

// Close ends the server and its connections.
func (u *Upstream) Close() {
	u.stop.Store(true)
	u.done.Wait()
	u.release()
}

func (u *Upstream) release() {
	for _, fd := range u.listeners {
		_ = unix.Close(fd)
	}
	for fd, c := range u.conns {
		if c.open {
			_ = unix.Close(fd)
		}
	}
	u.poll.close()
}

// listen opens one more listener, at a port of the kernel's choice.
func (u *Upstream) listen() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	u.listeners = append(u.listeners, fd)
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"); err != nil {
		return fmt.Errorf("keep to the loopback interface: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	u.ports = append(u.ports, uint16(name.(*unix.SockaddrInet4).Port))
	return u.poll.add(fd, int32(fd), 1)
}

// run serves until stop is set.
func (u *Upstream) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for !u.stop.Load() {
		events, err := u.poll.wait()
		if err != nil {
			panic(err) // the set is ours, and valid: it can't fail
		}
		for i := range events {
			e := &events[i]
			switch {
			case e.Pad == 1:
				u.accept(int(e.Fd))
			default:
				u.serve(int(e.Fd), e.Events)
			}
		}
	}
}

func (u *Upstream) accept(listener int) {
	for {
		// Not unix.Accept4, which allocates the peer's address.
		r, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == unix.ECONNABORTED || errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return // no more for now, or no descriptors: the next connection asks again
		}
		fd := int(r)
		for len(u.conns) <= fd {
			u.conns = append(u.conns, served{})
		}
		u.conns[fd] = served{open: true}
		u.accepted.Add(1)
		if u.poll.add(fd, int32(fd), 0) != nil {
			u.end(fd)
		}
	}
}

func (u *Upstream) end(fd int) {
	u.conns[fd].open = false
	_ = unix.Close(fd)
}

// serve does what an event asks for. An event of a connection that ended earlier in the same batch
// finds either a closed slot or a new connection, which has nothing to read.
func (u *Upstream) serve(fd int, events uint32) {
	c := &u.conns[fd]
	if c.open && readable(events) {
		u.read(fd, c, ended(events))
	}
	if c.open && events&unix.EPOLLOUT != 0 {
		switch c.mode {
		case bulkByte, rateByte:
			u.pour(fd)
		case someByte:
			u.pourSome(fd, c)
		}
	}
}

// read takes what has come, and the end too where the event has told of it: that is not told twice.
func (u *Upstream) read(fd int, c *served, ended bool) {
	for {
		n, err := unix.Read(fd, u.in)
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 || !u.answer(fd, c, u.in[:n]) {
			u.end(fd)
			return
		}
		if n < len(u.in) && !ended {
			return
		}
	}
}

// answer takes bytes; false ends the connection. Answers are small, and the next request comes
// after them: they always fit into the socket's buffer.
func (u *Upstream) answer(fd int, c *served, b []byte) bool {
	if c.mode == 0 {
		c.mode, c.left = b[0], PingSize
		if c.mode == someByte {
			c.left = SomeSize
		}
	}
	switch c.mode {
	case someByte:
		u.pourSome(fd, c)
		return true
	case bulkByte:
		u.pour(fd)
		return true
	case rateByte:
		if len(b) != 9 || unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, binary.BigEndian.Uint64(b[1:])) != nil {
			return false
		}
		u.pour(fd)
		return true
	case pingByte:
		for ; len(b) >= c.left; c.left = PingSize {
			b = b[c.left:]
			if !send(fd, u.ping) {
				return false
			}
		}
		c.left -= len(b)
		return true
	}
	for len(b) > 0 {
		n, done := c.scan.next(b)
		if b = b[n:]; done && !send(fd, u.response) {
			return false
		}
	}
	return true
}

// pour sends until the peer takes no more for now.
func (u *Upstream) pour(fd int) {
	for {
		if n, err := unix.Write(fd, u.zeros); err != nil || n < len(u.zeros) {
			return // an end is told by another event
		}
	}
}

// pourSome sends what is left, as far as the peer takes it for now.
func (u *Upstream) pourSome(fd int, c *served) {
	for c.left > 0 {
		n, err := unix.Write(fd, u.zeros[:c.left])
		if err != nil {
			return
		}
		c.left -= n
	}
}

// send writes all of b at once.
func send(fd int, b []byte) bool {
	n, err := unix.Write(fd, b)
	return err == nil && n == len(b)
}
