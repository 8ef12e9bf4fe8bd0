package leader

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// streamBuffer bounds the messages that wait for one node. A node that does not read loses its
// stream, not the leader's time.
const streamBuffer = 512

// Session serves one node's stream.
func (s *Server) Session(stream leasepb.Lease_SessionServer) error {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return stream.Send(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_NotLeader{
			NotLeader: &leasepb.NotLeader{LeaderAddr: s.leader()}}})
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c := &conn{out: make(chan Outbound, streamBuffer), cancel: cancel}
	registered := make(chan struct{})
	if !l.post(func(time.Duration, *fsm.State) {
		l.lastConn++
		c.id = l.lastConn
		l.conns[c.id] = c
		close(registered)
	}) {
		return errLeadershipEnded
	}
	select {
	case <-registered:
	case <-l.ctx.Done():
		return errLeadershipEnded
	}
	defer l.post(func(time.Duration, *fsm.State) {
		delete(l.conns, c.id)
		l.alloc.Gone(c.id)
	})
	go func() {
		defer cancel()
		l.receive(stream, c)
	}()
	return l.transmit(ctx, stream, c)
}

var errLeadershipEnded = status.Error(codes.Unavailable, "this server leads no more")

// transmit sends until the stream or the leadership ends.
func (l *leadership) transmit(ctx context.Context, stream leasepb.Lease_SessionServer, c *conn) error {
	for {
		select {
		case o := <-c.out:
			if o.Msg != nil {
				if err := stream.Send(o.Msg); err != nil {
					return err
				}
			}
			if o.End {
				return nil
			}
		case <-l.ctx.Done():
			return errLeadershipEnded
		case <-ctx.Done():
			return status.Error(codes.Canceled, "the stream has ended")
		}
	}
}

// receive hands a node's messages to the loop. The time of arrival is noted here, before any wait.
func (l *leadership) receive(stream leasepb.Lease_SessionServer, c *conn) {
	said := false
	for {
		m, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.logger.Debug("lease stream ended", "stream", c.id, "error", err)
			}
			return
		}
		arrived := l.now()
		if (m.GetHello() != nil) == said {
			l.logger.Warn("a node broke the lease protocol: hello comes first, and once", "stream", c.id)
			return
		}
		said = true
		if !l.post(func(now time.Duration, _ *fsm.State) {
			if l.conns[c.id] == c { // its end may have been posted first: the stream's two ends don't wait for each other
				l.alloc.Receive(now, c.id, m, arrived)
			}
		}) {
			return
		}
	}
}
