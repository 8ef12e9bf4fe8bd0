package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

const (
	minTick    = time.Millisecond       // the shortest: what is due sooner must not make the timer spin
	tickEvery  = 250 * time.Millisecond // the longest between looks at the clock: a suspended machine's timers are late
	minBackoff = 20 * time.Millisecond
	maxBackoff = 100 * time.Millisecond // a lease may be about to run out, and a server knows by itself who leads
)

// Run keeps a session with the cluster until ctx ends. It returns nil then, or [ErrNameTaken] where
// the name belongs to another live process. Connections that use slots are severed, unless they
// have ended.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.keepTime(ctx) })
	wg.Go(func() { m.keepLog(ctx) })
	defer m.logFences() // of the last one
	defer wg.Wait()
	defer cancel()
	backoff := minBackoff
	for ctx.Err() == nil {
		began := m.cfg.Clock.Now()
		err := m.converse(ctx)
		if m.parting() {
			<-ctx.Done()
			break
		}
		var refused *refusedError
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &refused) && refused.reason == leasepb.Refused_REASON_NAME_TAKEN && m.isFresh():
			return fmt.Errorf("%w: %s", ErrNameTaken, refused.detail)
		case errors.Is(err, ErrOtherCluster), refused != nil && refused.reason == leasepb.Refused_REASON_OTHER_CLUSTER:
			m.meetsOther(err)
		default:
			m.cfg.Log.Debug("lease stream ended", "reason", err)
		}
		if m.cfg.Clock.Now()-began > time.Second || errors.Is(err, errSessionGone) {
			backoff = minBackoff
		}
		wait := backoff/2 + rand.N(backoff)
		if refused != nil && refused.retryAfter > 0 {
			if refused.reason != leasepb.Refused_REASON_OTHER_CLUSTER {
				m.cfg.Log.Info("the cluster does not open a session yet", "reason", refused.detail)
			}
			wait = max(wait, min(refused.retryAfter, time.Second))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	m.do(func(now time.Duration) { m.node.Lose(now) })
	return nil
}

func (m *Manager) parting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.parting()
}

func (m *Manager) isFresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.fresh
}

// keepTime lets the core see the time pass.
func (m *Manager) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.alarm:
		}
		var wait time.Duration
		m.do(func(now time.Duration) {
			m.node.Tick(now, m.cfg.Clock.Wall())
			wait = min(max(m.node.NextWake(now)-now, minTick), tickEvery)
			m.wakeAt, m.ticked = now+wait, now
		})
		timer.Reset(wait)
	}
}

// converse opens one stream and serves it to its end.
func (m *Manager) converse(ctx context.Context) error {
	m.mu.Lock()
	hint := m.hint
	m.hint = ""
	m.mu.Unlock()
	stream, err := m.cfg.Connect(ctx, hint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stream.Close()
	defer cancel()
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()

	m.do(func(now time.Duration) {
		m.stream = stream
		if m.cfg.Affiliation != nil {
			m.node.SetCluster(m.cfg.Affiliation.ClusterID())
		}
		m.node.StreamUp(now)
	})
	defer m.do(func(now time.Duration) {
		m.stream = nil
		m.node.StreamDown(now)
		m.notify()
	})
	wg.Go(func() {
		m.sendAll(ctx, stream)
		stream.Close()
	})
	return m.receiveAll(stream)
}

func (m *Manager) sendAll(ctx context.Context, stream Stream) {
	for {
		var out []*leasepb.NodeMessage
		m.do(func(now time.Duration) { out = m.node.Outgoing(now) })
		for _, msg := range out {
			if err := stream.Send(msg); err != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.kick:
			runtime.Gosched() // whoever is about to ask, too, comes first: the busier the machine, the more goes into one message
		}
	}
}

func (m *Manager) receiveAll(stream Stream) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errNotLeader
			}
			return err
		}
		if err := m.affiliate(msg); err != nil {
			return fmt.Errorf("%w: %w", ErrOtherCluster, err)
		}
		var table *limit.Table
		m.do(func(now time.Duration) {
			before := m.node.Table()
			err = m.node.Receive(now, msg)
			if nl := msg.GetNotLeader(); nl != nil {
				m.hint = nl.LeaderAddr
			}
			if t := m.node.Table(); t != before {
				table = t
			}
			if table != nil || msg.GetWelcome() != nil {
				m.notify()
			}
		})
		if w := msg.GetWelcome(); w != nil {
			m.cfg.Log.Info("session live", "session", w.Session, "resumed", w.Resumed, "ttl", time.Duration(w.TtlNs))
		}
		if table != nil && m.cfg.OnLimits != nil {
			m.cfg.OnLimits(table)
		}
		if err != nil {
			return err
		}
	}
}
