package proxy

import "sync/atomic"

// A FIN may mean that the client has closed, or that it has only finished sending. Before an answer
// begins, the proxy finds out by sending its first bytes, "HTTP/1.1 " or SOCKS5's version: a closed
// connection answers with a reset, and the request is given up. Otherwise the answer continues
// behind them. The cost: a client that gets no answer may get a part of a status line.
//
// Once an answer has begun, its own bytes do the same. While the upstream is silent, a closed
// client's slot is held until the client's kernel answers a keep-alive with a reset (75 s on
// Linux), or for response_timeout; cutting sooner would break answers that are awaited. A FIN
// behind unread content can't be seen. In a tunnel, a FIN is passed on and starts
// half_close_timeout.

// ahead counts the bytes of the current answer that were sent in advance. The client's goroutine
// opens and begins an answer; the hang-up watcher's goroutine calls ask.
type ahead struct {
	begin string // the bytes with which the answer begins, whatever it is
	state atomic.Uint32
	sent  int // guarded by the client's mu
}

const (
	answerOpen  = iota // nothing has been sent
	answerAhead        // its first bytes are being sent (then mu is held), or have been
	answerBegun        // the client's goroutine writes it
)

// ask provokes a reset if the client's connection is closed, unless an answer under way does so. It
// doesn't block.
func (c *conn) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ahead.state.CompareAndSwap(answerOpen, answerAhead) {
		return
	}
	if c.ahead.sent = c.sock.Offer(c.ahead.begin); c.ahead.sent == 0 {
		c.ahead.state.Store(answerOpen) // the client's window is full, or its reset is about to be reported
	}
}

// unsent returns the unsent part of b, the first bytes of an answer, which begin with those
// that begin every answer. From here on only the caller writes to the client.
func (c *conn) unsent(b []byte) []byte {
	if c.ahead.state.CompareAndSwap(answerOpen, answerBegun) {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead.state.Swap(answerBegun) == answerAhead {
		return b[c.ahead.sent:]
	}
	return b // an interim response began before: b is whole
}
