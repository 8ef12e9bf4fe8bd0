package leader

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// stillLog is a log that takes nothing, over a state that does not change.
type stillLog struct{ state *fsm.State }

func (l stillLog) Propose(ctx context.Context, _ uint64, _ fsm.Command) (fsm.Result, error) {
	<-ctx.Done()
	return fsm.Result{}, ctx.Err()
}

func (l stillLog) VerifyLeader(context.Context) error { return nil }
func (l stillLog) LastLed(context.Context, uint64) (time.Duration, error) {
	return 0, nil
}
func (l stillLog) Read(f func(*fsm.State))  { f(l.state) }
func (l stillLog) Changed() <-chan struct{} { return nil }

// A message that is handed over after its stream's end has been noted does nothing: a hello would
// wait for ever.
func TestMessageAfterEndOfStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := stillLog{fsm.NewState()}
		log.state.Apply(1, 1, &fsm.Init{ClusterID: "test", TTL: 3 * time.Second})
		s := New(log, log, func() string { return "" }, hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Lead(ctx, 1, 0)
		}()
		synctest.Wait()
		s.mu.Lock()
		l := s.lead
		s.mu.Unlock()
		done := make(chan struct{})
		go l.receive(&lateReader{msgs: []*leasepb.NodeMessage{
			{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1"}}},
		}, done: done}, &conn{id: 99})
		<-done
		time.Sleep(time.Second)
		l.post(func(time.Duration, *fsm.State) {
			if n := len(l.alloc.unproven) + len(l.alloc.unverified) + len(l.alloc.verifying); n != 0 {
				t.Errorf("%d hellos of a stream that has ended wait", n)
			}
		})
		time.Sleep(time.Second)
		cancel()
		<-ended
	})
}

// lateReader is a stream that still reads some messages.
type lateReader struct {
	grpc.ServerStream
	msgs []*leasepb.NodeMessage
	done chan struct{}
}

func (r *lateReader) Send(*leasepb.LeaderMessage) error { return nil }

func (r *lateReader) Recv() (*leasepb.NodeMessage, error) {
	if len(r.msgs) == 0 {
		close(r.done)
		return nil, io.EOF
	}
	m := r.msgs[0]
	r.msgs = r.msgs[1:]
	return m, nil
}
