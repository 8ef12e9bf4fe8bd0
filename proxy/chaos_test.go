package proxy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
)

// Slots are severed for every reason, and connections end in every way, in every phase: the upstream never sees more
// than the limit, and at the end every slot has come back. WEIR_SEED repeats a run's choices.
func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	const limit, workers, rounds = 4, 12, 40
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, io.LimitReader(zeros{}, 1<<(seed%20)))
	})
	w := newWorld(t, limit, policy(func(p *Policy) { p.HalfCloseTimeout = 50 * time.Millisecond }))

	done := make(chan struct{})
	var severing, working sync.WaitGroup
	severing.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 0))
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, s := range w.adm.slots() {
				if rng.IntN(8) == 0 {
					w.adm.sever(s, lease.Reason(1+rng.IntN(3)))
				}
			}
			if c := w.Connections(""); len(c) > 0 && rng.IntN(8) == 0 {
				w.CloseConnection(c[rng.IntN(len(c))].ID)
			}
		}
	})
	for i := range workers {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i+1)))
			for range rounds {
				visit(t, w.addr, u.addr, rng)
			}
		})
	}
	working.Wait()
	close(done)
	severing.Wait()
	// By the kernel's count: under this load the server itself may learn of a reset after the slot's rest.
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.alive > limit {
		t.Errorf("the upstream saw %d connections at once", u.alive)
	}
	if n := w.Counters().Requests.Load(); n < workers*rounds/2 {
		t.Errorf("only %d requests came through: it proves little", n)
	}
}

// sever does what a lease does: only a parked slot is wanted.
func (a *admitter) sever(s *slot, r lease.Reason) {
	a.mu.Lock()
	if r == lease.SeverWanted {
		if !s.parked || s.wanted {
			a.mu.Unlock()
			return
		}
		s.wanted = true
	}
	a.mu.Unlock()
	s.holder.Sever(r)
}

// visit sends a few requests, in one of the ways there are, and leaves in another.
func visit(t *testing.T, proxy, up string, rng *rand.Rand) {
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	switch rng.IntN(3) {
	case 0:
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", up)
	case 1:
		for range 3 {
			fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", up)
		}
	case 2:
		fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", up)
		if rng.IntN(2) == 0 {
			fmt.Fprint(conn, "0\r\n\r\n")
		}
	}
	// What comes back, a reset, a refusal or an answer, is any of the outcomes.
	buf := make([]byte, 1<<rng.IntN(16))
	conn.Read(buf)
	switch rng.IntN(3) {
	case 0:
		conn.(*net.TCPConn).SetLinger(0)
	case 1:
		conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("a half-closed connection never ended")
		}
	}
}
