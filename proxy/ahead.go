package proxy

import "sync/atomic"

// A FIN alone does not tell a client that has closed its connection from one that has only ended
// its sending side. Bytes do: a closed connection answers them with a reset. So a client whose FIN
// has come is sent the bytes that every answer begins with, ahead of the answer. The request is
// given up when the reset comes; otherwise the answer goes on behind them.

// ahead is how much of the answer to the request in hand has been sent ahead of it. The client's
// goroutine opens and begins; the hang-up watcher's asks.
type ahead struct {
	state atomic.Uint32
	sent  int // guarded by the client's mu
}

const (
	answerOpen  = iota // nothing of it has been sent
	answerAhead        // its first bytes, perhaps: the client's mu is held until they are
	answerBegun        // it is written by the client's goroutine
)

// ask makes the client's kernel say whether the connection is closed, unless an answer under way
// does. It doesn't block.
func (c *client) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ahead.state.CompareAndSwap(answerOpen, answerAhead) {
		return
	}
	if c.ahead.sent = c.sock.offer(statusPrefix); c.ahead.sent == 0 {
		c.ahead.state.Store(answerOpen) // the client's window is closed, or its reset is on its way to the watcher
	}
}

// unsent is what is left to send of the first bytes of an answer, b, which begin with
// [statusPrefix]. From here on they are the caller's to write.
func (c *client) unsent(b []byte) []byte {
	if c.ahead.state.CompareAndSwap(answerOpen, answerBegun) {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead.state.Swap(answerBegun) == answerAhead {
		return b[c.ahead.sent:]
	}
	return b // behind an interim one
}
