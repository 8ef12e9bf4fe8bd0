package leader

import (
	"context"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// SessionInfo is the leader's view of one session.
type SessionInfo struct {
	ID          uint64
	Node        string
	Identity    string
	State       string        // live, fenced or expired
	ReclaimedIn time.Duration // > 0: until its slots are taken back, if it stays silent
}

// Sessions describes the open Sessions at a moment, and those that ran out.
func (a *Allocator) Sessions(now time.Duration) []SessionInfo {
	out := make([]SessionInfo, 0, len(a.order))
	for _, p := range a.order {
		info := SessionInfo{ID: p.ID, Node: p.Node, Identity: p.Identity, State: leasepb.SessionLive}
		if now-p.seen > a.ttl {
			info.State = leasepb.SessionFenced
		}
		if !a.eligible(now, p) {
			info.ReclaimedIn = max(0, a.expiry(p)-now)
		}
		out = append(out, info)
	}
	for node, id := range a.ended {
		out = append(out, SessionInfo{ID: id, Node: node, State: leasepb.SessionExpired})
	}
	slices.SortFunc(out, func(x, y SessionInfo) int { return cmpID(x.ID, y.ID) })
	return out
}

// Sessions lists the open sessions, and those that ran out in this term, by id; ok is false where
// this server does not lead.
func (s *Server) Sessions(ctx context.Context) (infos []SessionInfo, ok bool) {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return nil, false
	}
	done := make(chan []SessionInfo, 1)
	if !l.post(func(now time.Duration, _ *fsm.State) { done <- l.alloc.Sessions(now) }) {
		return nil, false
	}
	select {
	case infos = <-done:
		return infos, true
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
	return nil, false
}
