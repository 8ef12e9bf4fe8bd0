package lease

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// fullPipe is a log that blocks until somebody reads it.
type fullPipe struct {
	read chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
}

func (p *fullPipe) Write(b []byte) (int, error) {
	<-p.read
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// A log that nobody reads holds up no fence: neither the line about the fence itself, nor one about
// a limit that only reports.
func TestFenceWaitsForNoLog(t *testing.T) {
	for _, reports := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, clock := liveManager(t, ExpiryClose, 1, kit.Limit(t, "up", 1, limit.Queue{}), reportLimit(t, "report", 0))
			pipe := &fullPipe{read: make(chan struct{})}
			m.cfg.Log = hclog.New(&hclog.LoggerOptions{Output: pipe, Level: hclog.Info})
			m.cfg.Connect = func(ctx context.Context, _ string) (Stream, error) {
				<-ctx.Done()
				return nil, io.EOF
			}
			h := newHolder()
			s, err := acquire(m, t.Context(), to(t, "up"), h)
			if err != nil {
				t.Fatal(err)
			}
			if reports {
				mustAcquire(t, m, "report")
			}
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- m.Run(ctx) }()
			time.Sleep(2 * logEvery) // the line about the report, if there is one, waits for the reader
			clock.now.Add(int64(11 * time.Second))
			time.Sleep(time.Second)
			if h.severed() == 0 {
				t.Errorf("reports %v: a connection outlives its lease while nobody reads the log", reports)
			}
			s.Release()
			close(pipe.read)
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			if said := pipe.out.String(); strings.Count(said, "fenced: ") != 1 || strings.Contains(said, "only reports") != reports {
				t.Errorf("reports %v: once it is read, the log says %q", reports, said)
			}
		})
	}
}
