package connlimit

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// Conn is a connection that is counted until it is closed, by whoever closes it: a Listener accepts
// such. NetConn returns the connection inside, for those who need its type. io.Copy and net/http
// use sendfile and splice as they would without it.
type Conn struct {
	net.Conn
	slot   Slot
	limits *Limiter // that has counted it; nil for none
	free   func()   // of Wrap and of Handler; may be nil
	closed atomic.Bool
}

// Close closes the connection, and then frees its slot: there are never more open than counted.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.closed.Store(true)
	c.slot.Free()
	if c.free != nil {
		c.free()
	}
	return err
}

// NetConn returns the connection that c wraps.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends the sending side, where the connection can.
func (c *Conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// CloseRead ends the receiving side, where the connection can.
func (c *Conn) CloseRead() error {
	if r, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return r.CloseRead()
	}
	return errors.ErrUnsupported
}

// ReadFrom lets the connection choose how to send what r has: TCP uses sendfile and splice.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// WriteTo lets the connection choose how to pass on what it receives.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if from, ok := c.Conn.(io.WriterTo); ok {
		return from.WriteTo(w)
	}
	return io.Copy(w, struct{ io.Reader }{c.Conn})
}

// SyscallConn gives access to the socket, where there is one.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// counts reports whether conn is, or wraps, a connection that l has counted.
func (l *Limiter) counts(conn net.Conn) bool {
	for range 16 {
		if conn == nil {
			break
		}
		if c, ok := conn.(*Conn); ok && c.limits == l {
			return true
		}
		conn = inner(conn)
	}
	return false
}
