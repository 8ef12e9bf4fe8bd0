package proxy

import (
	"sync/atomic"
	"time"
)

// A FIN may mean that the client has closed, or that it has only finished sending. Before an answer
// begins, the proxy finds out by sending its first bytes, "HTTP/1.1 " or SOCKS5's version: a closed
// connection answers with a reset, and the request is given up. Otherwise the answer continues
// behind them. The cost: a client that gets no answer may get a part of a status line.
//
// Once an answer has begun, its own bytes do the same. While the upstream is silent, a closed
// client's slot is held until the client's kernel answers a keep-alive with a reset (75 s on
// Linux), or for response_timeout; cutting sooner would break answers that are awaited. In a
// tunnel, a FIN is passed on and starts half_close_timeout.
//
// A FIN behind more content than the socket's buffers hold can't be seen until that is read. A
// request that waits, and has so much, is asked now and then by one byte each: see [flow.suspect].

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

// ask provokes a reset if the client's connection is closed, unless an answer under way does so: by
// all bytes with which an answer begins, if its FIN has been seen, else by the next of them. The
// last one is kept for a FIN. It doesn't block.
func (c *conn) ask(fin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &c.ahead
	switch {
	case a.state.CompareAndSwap(answerOpen, answerAhead):
		a.sent = 0
	case a.state.Load() != answerAhead:
		return
	}
	rest := a.begin[a.sent:]
	if !fin {
		rest = rest[:max(0, min(1, len(rest)-1))]
	}
	if len(rest) > 0 {
		a.sent += c.sock.Offer(rest)
	}
	if a.sent == 0 {
		a.state.Store(answerOpen) // the client's window is full, or its reset is about to be reported
	}
}

const (
	// suspectAfter is how long a request waits before its client is suspected to have gone unseen.
	// The time doubles with each byte that is asked by.
	suspectAfter = 250 * time.Millisecond
	// manyUnread is how many bytes a client must have sent, which are not read, for its FIN to be
	// held up behind more: less than any kernel's buffer begins with.
	manyUnread = 32 << 10
)

// suspect asks whether the client of a request that waits is still there, if its end could not be
// seen. Before the first time it has the client watched.
func (f *flow) suspect() {
	f.mu.Lock()
	client := f.client
	if f.wait.timer == nil || client == nil { // it waits no more
		f.mu.Unlock()
		return
	}
	first := f.wait.suspects == 0
	f.wait.suspects = max(2*f.wait.suspects, suspectAfter)
	f.wait.timer.Reset(f.wait.suspects)
	f.mu.Unlock()
	if first {
		client.watch()
	} else if client.sock.Unread() >= manyUnread {
		client.ask(false)
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
