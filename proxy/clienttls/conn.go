package clienttls

import (
	"crypto/tls"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

const (
	// waitBuffer is the size of the buffer in which a connection waits for the client's bytes. While
	// they come in large pieces, it uses a pooled buffer instead.
	waitBuffer = 1 << 10
	// lastBytes is how long the last bytes may take to reach the client after its socket was closed.
	lastBytes = 60 * time.Second
	// stuckEvery is how often, after the client's FIN, the connection checks whether the bytes
	// before the FIN still move.
	stuckEvery = 100 * time.Millisecond
)

// Conn is one client's TLS, once the handshake is complete. It is the [sock.Front] of the client's
// socket.
type Conn struct {
	buffers *sock.Buffers
	hangups *sock.Hangups
	wire    *sock.Reader // from the client; its bytes in hand have not been read by tls
	tls     *tls.Conn
	inner   *sock.Conn // our end of the pair
	socket  *sock.Conn // the other end
	hungUp  func(sock.Hangup)
	ended   func()

	broken atomic.Bool   // the client's connection was reset
	moved  atomic.Uint64 // bytes from the client
	pumps  atomic.Int32  // directions that have not ended

	mu     sync.Mutex
	done   bool // everything has been sent to the client
	closed bool // the client's socket is closed
	stuck  *time.Timer
	seen   uint64
}

// Socket returns what is to be used as the client's socket. Its user closes it, or resets it.
func (c *Conn) Socket() *sock.Conn { return c.socket }

// Begin starts to carry the client's bytes; the caller goes on with Carry. hungUp is called, from
// the watcher's goroutine, with ends that no read of Socket can find. ended is called when both
// directions have ended, and all descriptors but the socket's are closed.
func (c *Conn) Begin(hungUp func(sock.Hangup), ended func()) {
	c.hungUp, c.ended = hungUp, ended
	c.pumps.Store(2)
	go c.carryDown()
	c.hangups.Add(c.wire.Conn, c.wireHungUp)
}

// Carry carries the bytes that come from the client, until their end.
func (c *Conn) Carry() {
	defer c.carried()
	small := make([]byte, waitBuffer)
	buf := small
	for {
		n, err := c.tls.Read(buf)
		if n > 0 {
			if c.inner.Write(buf[:n], nil, nil) != nil {
				break // the pair is closed: Closed or Reset has seen to the client
			}
			c.moved.Add(uint64(n))
		}
		switch {
		case err == io.EOF:
			_ = c.inner.CloseWrite() // fails where the other end is closed
		case err != nil:
			c.breakOff()
		case n == len(small) && len(buf) == len(small):
			buf = c.buffers.Get()
			continue
		case n < len(small) && len(buf) > len(small):
			c.buffers.Put(buf)
			buf = small
			continue
		default:
			continue
		}
		break
	}
	if len(buf) > len(small) {
		c.buffers.Put(buf)
	}
}

// carryDown carries the bytes that go to the client.
func (c *Conn) carryDown() {
	defer c.carried()
	for {
		buf, n, err := c.inner.Read(nil)
		if err == nil {
			_, err = c.tls.Write(buf[:n])
			c.buffers.Put(buf)
		} else if err == io.EOF {
			if err = c.tls.CloseWrite(); err == nil {
				err = c.wire.Conn.CloseWrite()
			}
			if err == nil {
				c.sent()
				return
			}
		}
		if err != nil {
			c.breakOff()
			return
		}
	}
}

// carried is called at the end of each direction; the second call closes everything.
func (c *Conn) carried() {
	if c.pumps.Add(-1) > 0 {
		return
	}
	c.mu.Lock()
	if c.stuck != nil {
		c.stuck.Stop()
	}
	c.mu.Unlock()
	c.wire.Release()
	c.wire.Conn.Close()
	c.inner.Close()
	c.ended()
}

// sent records that the client has been sent its last byte. The connection is closed once the
// client's socket has been closed too.
func (c *Conn) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	if c.closed {
		c.wire.Conn.Close()
	}
}

// Closed implements [sock.Front]: it is called when the client's socket is closed.
func (c *Conn) Closed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.done {
		c.wire.Conn.Close()
		return
	}
	_ = c.wire.Conn.SetWriteDeadline(time.Now().Add(lastBytes)) // fails if it is closed
}

// Reset implements [sock.Front]: it is called when the client's socket is reset.
func (c *Conn) Reset() { c.wire.Conn.Reset() }

// Broken implements [sock.Front].
func (c *Conn) Broken() bool { return c.broken.Load() }

// Wire implements [sock.Front].
func (c *Conn) Wire() *sock.Conn { return c.wire.Conn }

// breakOff turns the client's reset, or broken TLS, into a reset of its socket.
func (c *Conn) breakOff() {
	if c.broken.Swap(true) {
		return
	}
	c.wire.Conn.Reset()
	_ = c.inner.CloseWrite() // these fail if it is closed
	_ = c.inner.CloseRead()
	c.hungUp(sock.HangupReset)
}

// wireHungUp is called by the hang-up watcher at the end of the client's connection.
func (c *Conn) wireHungUp(kind sock.Hangup) {
	if kind == sock.HangupReset {
		c.breakOff()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stuck == nil {
		c.seen = c.moved.Load()
		c.stuck = time.AfterFunc(stuckEvery, c.lookStuck)
	}
}

// lookStuck reports a client's FIN that cannot be forwarded because the bytes before it are not
// being read.
func (c *Conn) lookStuck() {
	moved, unread := c.moved.Load(), c.socket.Unread()
	c.mu.Lock()
	stuck := moved == c.seen && unread > 0
	if c.seen = moved; !stuck && c.pumps.Load() == 2 {
		c.stuck.Reset(stuckEvery)
	}
	c.mu.Unlock()
	if stuck {
		c.hungUp(sock.HangupFIN)
	}
}
