package rpcport

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A server takes messages up to its bound, and no longer ones: gRPC's own bound of 4 MiB would end
// the stream of a node with much to say at each of its attempts.
func TestServerTakesLongMessages(t *testing.T) {
	s := newServers(nil)
	s.grpc.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Length", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Of",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var b wrapperspb.BytesValue
			if err := decode(&b); err != nil {
				return nil, err
			}
			return wrapperspb.Int64(int64(len(b.Value))), nil
		},
	}}}, struct{}{})
	listener := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.grpc.Serve(listener)
	}()
	defer func() {
		s.grpc.Stop()
		<-done
	}()
	conn, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, c := range []struct {
		bytes int
		want  codes.Code
	}{{5 << 20, codes.OK}, {maxRequest - 64, codes.OK}, {maxRequest + 1, codes.ResourceExhausted}} {
		var n wrapperspb.Int64Value
		err := conn.Invoke(t.Context(), "/test.Length/Of", wrapperspb.Bytes(make([]byte, c.bytes)), &n)
		if status.Code(err) != c.want || err == nil && n.Value != int64(c.bytes) {
			t.Errorf("%d bytes: %v, want %v", c.bytes, err, c.want)
		}
	}
}
