package connlimit

import (
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// watchEvery is how often hijacked connections are looked at.
const watchEvery = 250 * time.Millisecond

// A watch notices when hijacked connections have been closed: net/http tells nobody. It has a
// goroutine while there are any.
type watch struct {
	mu      sync.Mutex
	watched []watched
}

type watched struct {
	open func() bool
	end  func()
}

// add calls end when conn has been closed. It is false where that can't be seen.
func (w *watch) add(conn net.Conn, end func()) bool {
	open := openFunc(conn)
	if open == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = append(w.watched, watched{open, end})
	if len(w.watched) == 1 {
		go w.run()
	}
	return true
}

func (w *watch) run() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for range ticker.C {
		if !w.look() {
			return
		}
	}
}

// look ends what is closed. It is false once nothing is left to watch.
func (w *watch) look() bool {
	w.mu.Lock()
	var ended []func()
	w.watched = slices.DeleteFunc(w.watched, func(c watched) bool {
		open := c.open()
		if !open {
			ended = append(ended, c.end)
		}
		return !open
	})
	left := len(w.watched)
	w.mu.Unlock()
	for _, end := range ended {
		end()
	}
	return left > 0
}

// openFunc returns a func that tells whether conn is open, or nil where nothing can.
func openFunc(conn net.Conn) func() bool {
	for range 16 {
		switch c := conn.(type) {
		case nil:
			return nil
		case *Conn:
			return func() bool { return !c.closed.Load() }
		case syscall.Conn:
			// Control takes no call of the system: it only asks whether the descriptor may be used.
			if raw, err := c.SyscallConn(); err == nil {
				return func() bool { return raw.Control(func(uintptr) {}) == nil }
			}
		}
		conn = inner(conn)
	}
	return nil
}
