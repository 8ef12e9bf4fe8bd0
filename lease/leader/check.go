package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// Check returns an error where the leader's side contradicts itself. It is for tests, which call it
// after every step.
func (a *Allocator) Check() error {
	for i, p := range a.order {
		if a.peers[p.ID] != p || i > 0 && a.order[i-1].ID >= p.ID {
			return fmt.Errorf("session %d of node %s is not in its place", p.ID, p.Node)
		}
		if p.conn != 0 && a.conns[p.conn] != p {
			return fmt.Errorf("session %d of node %s and its stream disagree", p.ID, p.Node)
		}
		for key, d := range p.demands {
			if d.peer != p || d.c.key != key || a.keys[key] != d.c || !slices.Contains(d.c.demands, d) {
				return fmt.Errorf("the demand of node %s for %s is not in its place", p.Node, key)
			}
		}
	}
	if len(a.order) != len(a.peers) {
		return fmt.Errorf("%d sessions are listed, and %d known", len(a.order), len(a.peers))
	}
	for conn, p := range a.conns {
		if p.conn != conn || a.peers[p.ID] != p {
			return fmt.Errorf("stream %d and its session disagree", conn)
		}
	}
	if len(a.contests) != len(a.keys) {
		return fmt.Errorf("%d keys are listed, and %d known", len(a.contests), len(a.keys))
	}
	for key, c := range a.keys {
		if a.contests[c.index] != c {
			return fmt.Errorf("%s is not where the list has it", key)
		}
		for i, d := range c.demands {
			if d.peer.demands[key] != d || i > 0 && c.demands[i-1].peer.ID >= d.peer.ID {
				return fmt.Errorf("a demand for %s is not in its place", key)
			}
		}
		if c.dirty != slices.Contains(a.dirty, c) || (c.wake != 0) != slices.Contains(a.waking, c) ||
			c.wake != 0 && a.waking[c.wakeIndex] != c {
			return fmt.Errorf("%s is not in the lists that it should be in", key)
		}
	}
	for i, v := range a.vacant.heap {
		if v.index != i || a.vacant.keys[v.key] != v {
			return fmt.Errorf("the vacant key %s is not in its place", v.key)
		}
	}
	if len(a.vacant.heap) != len(a.vacant.keys) {
		return fmt.Errorf("%d vacant keys are listed, and %d known", len(a.vacant.heap), len(a.vacant.keys))
	}
	return nil
}

// AtRest returns an error where the leader's side remembers anything but sessions, each with its
// stream, and the vacant keys that the log keeps.
func (a *Allocator) AtRest() error {
	if n := len(a.keys) + len(a.dirty) + len(a.review) + len(a.waking) + len(a.rests); n != 0 {
		return fmt.Errorf("the leader remembers %d keys, %d changed, %d to be woken, %d at rest", len(a.keys), len(a.dirty), len(a.waking), len(a.rests))
	}
	if n := len(a.opens) + len(a.unproven) + len(a.partial) + len(a.closes) + len(a.leaves); n != 0 || a.inflight != nil {
		return fmt.Errorf("the leader has %d requests in hand, and %v on its way", n, a.inflight)
	}
	for _, p := range a.order {
		if len(p.demands)+len(p.missing) != 0 || p.assign != nil || p.conn == 0 {
			return fmt.Errorf("of node %s the leader remembers %d demands, %d missing", p.Node, len(p.demands), len(p.missing))
		}
	}
	return nil
}

// AtRest is [Allocator.AtRest] of a server that leads.
func (s *Server) AtRest(ctx context.Context) error {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return errors.New("this server does not lead")
	}
	answer := make(chan error, 1)
	l.post(func(time.Duration, *fsm.State) { answer <- l.alloc.AtRest() })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
