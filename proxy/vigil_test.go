package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/sock"
)

// impatient returns a world whose plain exchanges may stall only for a moment, and its log.
func impatient(t *testing.T, limit time.Duration) (*world, *journal) {
	t.Helper()
	j := new(journal)
	return newWorld(t, 1, policy(func(p *Policy) { p.ResponseTimeout = limit }),
		func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = j, hclog.Info, true }), j
}

const shortStall = 100 * time.Millisecond

// freed waits until the exchange's slot is released.
func (w *world) freed() {
	w.t.Helper()
	eventually(w.t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// ended checks the end in the log line of the only exchange.
func (j *journal) ended(t *testing.T, want string) {
	t.Helper()
	eventually(t, "the exchange's line", func() bool { return len(j.Lines(t, "request ended")) == 1 })
	if got := j.Lines(t, "request ended")[0]["end"]; got != want {
		t.Errorf("the exchange ended: %v, want %s", got, want)
	}
}

// only returns the two sides of the only flow.
func (w *world) only() (*conn, *sock.Conn) {
	f := w.flows.all()[0]
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.client, f.upstream
}

func TestUpstreamThatDoesNotAnswerIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	w, _ := impatient(t, shortStall)
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	p.refused("GET", 504, "http_response_timeout")
	q.expectReset()
	w.freed()
	p.send(get(u, "/", "")) // the client's connection goes on
	answer := u.accept()
	answer.readHead()
	answer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	answer.Close()
	if resp, _ := p.response("GET"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

func TestUpstreamThatStopsInItsAnswerIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	w, j := impatient(t, shortStall)
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
	p.readHead()
	p.expect("half")
	p.expectReset()
	q.expectReset()
	w.freed()
	j.ended(t, errUpstreamStalled.Error())
}

// When an upstream stops reading an upload, the client gets the reason, even if it is still
// sending.
func TestUpstreamThatStopsReadingIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	w, _ := impatient(t, shortStall)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	go io.Copy(p.TCPConn, io.LimitReader(zeros{}, 100000000))
	u.accept().readHead()
	p.refused("PUT", 504, "connection_write_timeout")
	w.freed()
}

func TestClientThatStopsSendingIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	w, _ := impatient(t, shortStall)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
	q := u.accept()
	q.readHead()
	q.expect("half")
	p.refused("PUT", 408, "http_request_error")
	q.expectReset()
	w.freed()
}

func TestClientThatStopsReadingIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	w, j := impatient(t, shortStall)
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
	_, err := io.Copy(q.TCPConn, io.LimitReader(zeros{}, 100000000))
	if !sock.IsReset(err) {
		t.Errorf("the upstream's write: %v", err)
	}
	w.freed()
	j.ended(t, errClientStalled.Error())
	if _, err := io.Copy(io.Discard, p.r); !sock.IsReset(err) {
		t.Errorf("the client's read: %v", err)
	}
}

// A reset by the upstream, behind bytes that the client does not read, is noticed although nothing
// reads the upstream.
func TestUpstreamResetBehindAStuckClient(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.ResponseTimeout, p.HalfCloseTimeout = 2*time.Second, shortStall }))
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
	q.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	io.Copy(q.TCPConn, zeros{}) // until the window closes
	f := w.flows.all()[0]
	q.reset()
	w.freed()
	if f.endCause() != errHalfClose {
		t.Errorf("it ended: %v", f.endCause())
	}
}

// An exchange that moves, however slowly, is left alone: up, down, and as long as either side
// moves.
func TestSlowExchangesAreLeftAlone(t *testing.T) {
	const pieces, limit = 12, 500 * time.Millisecond
	u := newUpstream(t, nil)
	w, _ := impatient(t, limit)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n")
	q := u.accept()
	q.readHead()
	tick := time.NewTicker(limit / 10) // the pace of both
	defer tick.Stop()
	for range pieces {
		<-tick.C
		p.send("a")
		q.expect("a")
	}
	for _, piece := range strings.SplitAfter("HTTP/1.1 200 OK\r\nA: a a a a a a a a a a a a\r\nContent-Length: 12\r\n\r\n", " ") {
		<-tick.C
		q.send(piece)
	}
	p.readHead()
	for range pieces {
		<-tick.C
		q.send("b")
		p.expect("b")
	}
}

// A write that the other side of the exchange holds up has no bound of its own: it goes on when the
// other side does.
func TestHeldUpUploadGoesOn(t *testing.T) {
	const size = 20 << 20
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 20971520\r\n\r\n")
	go io.Copy(p.TCPConn, io.LimitReader(zeros{}, size))
	q := u.accept()
	q.readHead()
	_, up := w.only()
	eventually(t, "the upload is stuck", up.IsStuck)
	if up.Stall != 0 {
		t.Errorf("the write is bounded by %v", up.Stall)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(q.r, size)); n != size || err != nil {
		t.Fatalf("the upstream has read %d bytes, %v", n, err)
	}
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if resp, _ := p.response("PUT"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// A response_timeout that is set during an exchange applies to it; 0s turns it off.
func TestResponseTimeoutIsReloaded(t *testing.T) {
	u := newUpstream(t, nil)
	w, _ := impatient(t, time.Second)
	p := w.dial()
	p.send(get(u, "/", ""))
	u.accept().readHead()
	for _, limit := range []time.Duration{0, shortStall} {
		changed := testPolicy()
		changed.ResponseTimeout = limit
		if err := w.SetPolicy(changed); err != nil {
			t.Fatal(err)
		}
	}
	p.refused("GET", 504, "http_response_timeout")
}

func TestOperatorClosesPlainExchanges(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	closeOnly := func() {
		t.Helper()
		if c := w.Connections(""); len(c) != 1 || !w.CloseConnection(c[0].ID) {
			t.Fatalf("not closed: %+v", c)
		}
	}
	t.Run("no answer has come", func(t *testing.T) {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		closeOnly()
		p.refused("GET", 502, "connection_terminated")
		q.expectReset()
		w.freed()
	})
	t.Run("the answer has begun", func(t *testing.T) {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		p.readHead()
		p.expect("half")
		closeOnly()
		p.expectReset()
		q.expectReset()
		w.freed()
	})
	t.Run("the client does not read", func(t *testing.T) {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(q.TCPConn, zeros{})
		c, _ := w.only()
		eventually(t, "the client is stuck", c.sock.IsStuck)
		closeOnly()
		w.freed()
	})
}

// A slow refused upload has time to read the answer while its bytes keep coming.
func TestSlowUploadReadsItsRefusal(t *testing.T) {
	w := newWorld(t, 1)
	w.SetDraining(true)
	p := w.dial()
	p.send("PUT http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	tick := time.NewTicker(50 * time.Millisecond) // the client's pace
	defer tick.Stop()
	for end := time.Now().Add(lingerTimeout + 300*time.Millisecond); time.Now().Before(end); <-tick.C {
		p.send("some of it")
	}
	p.refused("PUT", 503, "proxy_internal_error")
	p.expectEOF()
	p.send("and the rest") // nothing reads it
}

// The same for the answers of upstreams.
func TestSlowUploadReadsAnEarlyAnswer(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
	q.expectReset()
	tick := time.NewTicker(50 * time.Millisecond) // the client's pace
	defer tick.Stop()
	for end := time.Now().Add(lingerTimeout + 300*time.Millisecond); time.Now().Before(end); <-tick.C {
		p.send("some of it")
	}
	if resp, body := p.response("PUT"); resp.StatusCode != http.StatusRequestEntityTooLarge || body != "big" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// Bytes that keep coming are read until the total bound; a pause ends that earlier.
func TestDrainedWhile(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	s := sockOf(t, u.accept().TCPConn)
	start := time.Now()
	if sock.DrainedWhile(s, 50*time.Millisecond, patience) {
		t.Error("there was no end")
	}
	if d := time.Since(start); d < 50*time.Millisecond || d > patience/2 {
		t.Errorf("a pause of 50 ms ended it after %v", d)
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for {
			if _, err := p.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
				return
			}
		}
	}()
	start = time.Now()
	if sock.DrainedWhile(s, patience, 100*time.Millisecond) {
		t.Error("there was no end")
	}
	if d := time.Since(start); d < 100*time.Millisecond || d > patience/2 {
		t.Errorf("100 ms in all ended it after %v", d)
	}
	p.reset()
	<-stop
}
