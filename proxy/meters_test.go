package proxy

import (
	"fmt"
	"slices"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// meter is the fake of a flow's meter.
type meter struct {
	a     *admitter
	s     *supply
	waker lease.Waker
	waits bool
	taken int // by the last Take, and not put back
	ended bool
}

func (a *admitter) Meter(_ *limit.Subject, r limit.Resource, w lease.Waker, _ sock.Meter) sock.Meter {
	if a.uncounted {
		return noMeter{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.paced {
		return noMeter{}
	}
	a.supply[r].meters++
	return &meter{a: a, s: a.supply[r], waker: w}
}

func (m *meter) Take(n int) int {
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	if m.ended || n <= 0 {
		m.a.misuse = append(m.a.misuse, fmt.Sprintf("Take(%d) of a meter, ended %t", n, m.ended))
	}
	n = min(n, m.s.left)
	if n == 0 && !m.waits {
		m.waits = true
		m.s.waiting = append(m.s.waiting, m)
	}
	m.s.left -= n
	m.s.moved += n
	m.taken = n
	return n
}

func (m *meter) Put(n int) {
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	if n < 0 || n > m.taken {
		m.a.misuse = append(m.a.misuse, fmt.Sprintf("Put(%d) after Take gave %d", n, m.taken))
	}
	m.taken -= n
	m.s.left += n
	m.s.moved -= n
}

func (m *meter) End() {
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	m.s.waiting = slices.DeleteFunc(m.s.waiting, func(w *meter) bool { return w == m })
	if !m.ended {
		m.ended = true
		m.s.meters--
	}
}

// noMeter is that of a connection under no limit.
type noMeter struct{}

func (noMeter) Take(n int) int { return n }

func (noMeter) Put(int) {}

func (noMeter) End() {}
