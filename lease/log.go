package lease

import (
	"context"
	"time"
)

// Who writes to a log may have to wait for whoever reads it, for ever. So what keeps the time and
// severs writes no line itself: it leaves them to a goroutine of their own.

// logEvery is how often it is looked whether a limit that only reports was exceeded.
const logEvery = time.Second

// keepLog logs what the core has done, and what limits that only report would have refused.
func (m *Manager) keepLog(ctx context.Context) {
	ticks := time.NewTicker(logEvery)
	defer ticks.Stop()
	over := exceededLog{log: m.cfg.Log}
	defer over.flush()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.tell:
			m.logFences()
		case <-ticks.C:
			over.look(m.cfg.Clock.Now(), &m.node.exceeded, m.node.Table())
		}
	}
}

// logFences logs the fences of which the log has yet to tell.
func (m *Manager) logFences() {
	m.mu.Lock()
	fences := m.unlogged
	m.unlogged = nil
	m.mu.Unlock()
	for _, severed := range fences {
		m.cfg.Log.Warn("fenced: the session with the cluster can't be proven any more", "severed", severed, "on_expiry", m.cfg.OnExpiry.String())
	}
}
