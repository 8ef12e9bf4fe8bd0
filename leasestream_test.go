package weir

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
)

// silent is a connection on which nothing ever comes.
type silent struct{ grpc.ClientConnInterface }

func (silent) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return silentStream{ctx: ctx}, nil
}

type silentStream struct {
	grpc.ClientStream
	ctx context.Context
}

func (s silentStream) RecvMsg(any) error {
	<-s.ctx.Done()
	return context.Cause(s.ctx)
}

func TestAStreamEndsWhenAnotherLeads(t *testing.T) {
	var s leaseStreams
	s.leaderChanged("a:1")
	stream, err := s.open(t.Context(), silent{}, "a:1", s.seen())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	s.leaderChanged("a:1") // the same again
	select {
	case err := <-ended:
		t.Fatalf("the stream to the leader ends: %v", err)
	default:
	}
	s.leaderChanged("b:1")
	if err := <-ended; !errors.Is(err, errReplaced) {
		t.Fatalf("the stream to a former leader ends with %v", err)
	}
	stream.Close()
}

func TestAStreamToALeaderReplacedMeanwhileIsNotOpened(t *testing.T) {
	var s leaseStreams
	before := s.seen()
	s.leaderChanged("b:1") // between the look-up, which said a:1, and the opening
	if _, err := s.open(t.Context(), silent{}, "a:1", before); !errors.Is(err, errReplaced) {
		t.Errorf("to the former leader: %v", err)
	}
	stream, err := s.open(t.Context(), silent{}, "b:1", before) // another server's hint was newer
	if err != nil {
		t.Fatal(err)
	}
	stream.Close()
}
