package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// pacedWorld is a world in which no byte moves before it is fed.
func pacedWorld(t *testing.T, options ...option) *world {
	w := newWorld(t, 0, options...)
	w.adm.pace()
	return w
}

func (a *admitter) Paces(limit.Resource) bool {
	if a.uncounted {
		return false
	}
	a.mu.Lock()
	paced, asked := a.paced, a.onPaces
	a.mu.Unlock()
	if asked != nil {
		asked()
	}
	return paced
}

// starves waits until as many meters wait as want.
func (w *world) starves(r limit.Resource, want int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d wait for %v", want, r), func() bool {
		_, waiting, _ := w.adm.flowing(r)
		return waiting == want
	})
}

// moved checks how many bytes have been taken and not put back.
func (w *world) moved(r limit.Resource, want int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d bytes of %v", want, r), func() bool {
		n, _, _ := w.adm.flowing(r)
		return n == want
	})
}

// head lets a head through to a peer, byte by byte.
func (w *world) head(r limit.Resource, to *peer) string {
	w.t.Helper()
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		w.starves(r, 1)
		w.adm.feed(r, 1)
		b, err := to.r.ReadByte()
		if err != nil {
			w.t.Fatalf("%v after %q", err, head)
		}
		head = append(head, b)
	}
	return string(head)
}

// metersEnd waits until no meter is left, and no request in hand.
func (w *world) metersEnd() {
	w.t.Helper()
	eventually(w.t, "the meters have ended", func() bool {
		_, _, up := w.adm.flowing(limit.Upload)
		_, _, down := w.adm.flowing(limit.Download)
		return up+down == 0 && w.adm.inHandNow() == 0
	})
}

// A tunnel carries what its meters give, and not a byte more, in each direction for itself. While
// it waits it holds no goroutine.
func TestPacedTunnel(t *testing.T) {
	w := pacedWorld(t)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	p.send("0123456789")
	q.send("abcdefghij")
	w.starves(limit.Upload, 1)
	w.starves(limit.Download, 1)
	eventually(t, "no goroutine relays", func() bool { return pumps() == 0 })
	if n := u.all.Load(); n != 1 {
		t.Fatalf("%d connections", n)
	}
	w.adm.feed(limit.Upload, 4)
	q.expect("0123")
	w.starves(limit.Upload, 1)
	w.adm.feed(limit.Download, 5)
	p.expect("abcde")
	w.starves(limit.Download, 1)
	w.moved(limit.Upload, 4)
	w.moved(limit.Download, 5)
	// What is not there to be read is put back: the directions wait for bytes, and hold none.
	w.adm.feed(limit.Upload, 100)
	q.expect("456789")
	w.moved(limit.Upload, 10)
	w.adm.feed(limit.Download, 100)
	p.expect("fghij")
	w.moved(limit.Download, 10)
	// So does a FIN, which costs nothing.
	p.CloseWrite()
	q.expectEOF()
	q.Close()
	p.expectEOF()
	w.metersEnd()
	w.moved(limit.Upload, 10)
	w.moved(limit.Download, 10)
}

// A limit that is set while a tunnel is open paces it from then on.
func TestPacedFromTheMiddle(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	p.send("01")
	q.expect("01")
	q.send("ab")
	p.expect("ab")
	// A read that asked for the limit just before there was one may still bring bytes.
	eventually(t, "both directions wait for bytes", func() bool { return pumpsThat("IO wait") == 2 })
	w.adm.pace()
	p.send("0123456789")
	q.send("abcdefghij")
	w.starves(limit.Upload, 1)
	w.starves(limit.Download, 1)
	w.adm.feed(limit.Upload, 4)
	w.adm.feed(limit.Download, 5)
	q.expect("0123")
	p.expect("abcde")
	w.starves(limit.Upload, 1)
	w.starves(limit.Download, 1)
	w.moved(limit.Upload, 4)
	w.moved(limit.Download, 5)
	w.adm.feed(limit.Upload, 100)
	w.adm.feed(limit.Download, 100)
	q.expect("456789")
	p.expect("fghij")
	p.CloseWrite()
	q.expectEOF()
	q.Close()
	p.expectEOF()
	w.metersEnd()
}

// Bytes that came together with a head are paced before they are written; heads and the proxy's own
// answers are not.
func TestPacedEarlyBytes(t *testing.T) {
	w := pacedWorld(t)
	u := newUpstream(t, nil)
	p := w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\nearly bytes")
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	q := u.accept()
	w.starves(limit.Upload, 1)
	eventually(t, "no goroutine relays upwards", func() bool { return pumps() <= 1 })
	w.adm.feed(limit.Upload, 6)
	q.expect("early ")
	w.starves(limit.Upload, 1)
	w.moved(limit.Upload, 6)
	w.adm.feed(limit.Upload, 5)
	q.expect("bytes")
	p.reset()
	q.expectReset()

	// A client that goes away while its early bytes wait.
	w = pacedWorld(t)
	p = w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\nearly")
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	q = u.accept()
	w.starves(limit.Upload, 1)
	p.reset()
	q.expectReset()

	// An upgrade has some in both directions.
	w = pacedWorld(t)
	p = w.dial()
	p.send(get(u, "/", "Connection: upgrade\r\nUpgrade: x\r\n") + "up")
	q = u.accept()
	up := len(w.head(limit.Upload, q))
	q.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\ndown")
	down := len(w.head(limit.Download, p))
	w.starves(limit.Upload, 1)
	w.starves(limit.Download, 1)
	w.adm.feed(limit.Upload, 2)
	w.adm.feed(limit.Download, 4)
	q.expect("up")
	p.expect("down")
	w.moved(limit.Upload, up+2)
	w.moved(limit.Download, down+4)
}

// Splicing moves at most what was taken.
func TestPacedSplicing(t *testing.T) {
	const much = 8 << 20
	w := pacedWorld(t)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	go io.Copy(q, noise(1, much))
	content := noise(1, much)
	for _, n := range []int{1 << 20, 100_000, 3<<20 + 1, 5, much - 1<<20 - 100_000 - 3<<20 - 1 - 5} {
		w.starves(limit.Download, 1)
		w.adm.feed(limit.Download, n)
		sameBytes(t, "down", io.LimitReader(p.r, int64(n)), io.LimitReader(content, int64(n)))
	}
	w.moved(limit.Download, much)
}

// However the feeding meets the reading, nothing is lost, and all that passes has been taken.
func TestPacedBulk(t *testing.T) {
	w := pacedWorld(t)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-done:
				return
			default:
				w.adm.feed(limit.Upload, i*i%200_000)
				w.adm.feed(limit.Download, i*i%300_000)
			}
		}
	}()
	carryBulk(t, w, func() {})
	close(done)
	<-stopped
	w.moved(limit.Upload, 8<<20)
	w.moved(limit.Download, 12<<20)
}

// Everything that ends a tunnel ends one that waits for its meters, at once.
func TestStarvingTunnelEnds(t *testing.T) {
	for name, end := range map[string]func(w *world, p, q *peer){
		"client resets": func(_ *world, p, q *peer) { p.reset(); q.expectReset() },
		"upstream resets": func(w *world, p, q *peer) {
			q.reset()
			w.adm.feed(limit.Download, 100)
			p.expect("down")
			p.expectReset()
		},
		"operator": func(w *world, p, q *peer) {
			w.CloseConnection(w.Connections("")[0].ID)
			p.expectReset()
			q.expectReset()
		},
		"claims":   func(w *world, p, q *peer) { w.adm.only(w.t).holder.Sever(1); p.expectReset(); q.expectReset() },
		"shutdown": func(w *world, p, q *peer) { w.Close(); p.expectReset(); q.expectReset() },
	} {
		t.Run(name, func(t *testing.T) {
			w := pacedWorld(t)
			u := newUpstream(t, nil)
			p := w.connect(u.addr)
			q := u.accept()
			p.send("up")
			q.send("down")
			w.starves(limit.Upload, 1)
			w.starves(limit.Download, 1)
			end(w, p, q)
			eventually(t, "all is given back", func() bool { return w.adm.inUse()+w.adm.inHandNow() == 0 })
			w.starves(limit.Upload, 0)
			w.starves(limit.Download, 0)
		})
	}
}

// A paced tunnel is neither idle nor half-closed for too long, however long it waits.
func TestPacedTunnelIsAlive(t *testing.T) {
	const timeout = 200 * time.Millisecond // a machine that is busy takes its time
	for _, half := range []bool{false, true} {
		w := pacedWorld(t, policy(func(p *Policy) { p.TunnelIdleTimeout, p.HalfCloseTimeout = timeout, timeout }))
		u := newUpstream(t, nil)
		w.adm.feed(limit.Upload, 1<<20) // else the client's direction would wait for its meter, too
		p := w.connect(u.addr)
		q := u.accept()
		q.send("down")
		if half {
			q.CloseWrite()
		}
		w.starves(limit.Download, 1)
		began := time.Now()
		eventually(t, "several timeouts have passed", func() bool { return time.Since(began) > 3*timeout })
		w.adm.feed(limit.Download, 100)
		p.expect("down")
		if half {
			p.expectEOF() // it went through: the tunnel was alive
			p.Close()
			q.expectEOF()
			continue
		}
		q.expectReset() // idle since
		p.expectReset()
	}
}

// Bodies are paced in both directions, with what came together with the heads; heads are not.
func TestPacedBodies(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked %t", chunked), func(t *testing.T) {
			w := pacedWorld(t)
			u := newUpstream(t, nil)
			up, down := strings.Repeat("u", 100_000), strings.Repeat("d", 150_000)
			framed := func(s string) string {
				if chunked {
					return fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(s), s)
				}
				return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(s), s)
			}
			p := w.dial()
			var q *peer
			for n := 1; n <= 2; n++ { // the second on kept connections
				go io.WriteString(p.TCPConn, "POST http://"+u.addr+"/ HTTP/1.1\r\nHost: x\r\n"+framed(up))
				if n == 1 {
					w.starves(limit.Upload, 1)
				}
				if n == 1 {
					q = u.accept()
					w.adm.feed(limit.Upload, 10)
					w.starves(limit.Upload, 1)
				}
				w.adm.feed(limit.Upload, 1<<20)
				req, err := http.ReadRequest(q.r)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(req.Body); err != nil || string(body) != up {
					t.Errorf("%d bytes arrived: %v", len(body), err)
				}
				go io.WriteString(q.TCPConn, "HTTP/1.1 200 OK\r\n"+framed(down))
				if n == 1 {
					w.starves(limit.Download, 1)
					w.adm.feed(limit.Download, 20)
					w.starves(limit.Download, 1)
					w.adm.feed(limit.Download, 1<<20)
				}
				if _, body := p.response("POST"); body != down {
					t.Errorf("%d bytes came back", len(body))
				}
			}
			moved, _, _ := w.adm.flowing(limit.Upload)
			back, _, _ := w.adm.flowing(limit.Download)
			// Heads and chunk sizes count as well.
			if moved <= 2*len(up) || moved > 2*len(up)+300 || back <= 2*len(down) || back > 2*len(down)+300 {
				t.Errorf("%d bytes of %d were taken up, %d of %d down", moved, 2*len(up), back, 2*len(down))
			}
		})
	}
}

// Heads take their bytes too: of requests and responses, with content and without, on fresh and kept
// connections, and those of interim responses. What has come of a message does not wait for the
// rest's turn.
func TestPacedHeads(t *testing.T) {
	w := pacedWorld(t)
	u := newUpstream(t, nil)
	p := w.dial()
	p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
	q := u.accept()
	up := len(w.head(limit.Upload, q))
	w.starves(limit.Upload, 1)
	w.adm.feed(limit.Upload, 4)
	q.expect("body")
	q.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
	down := len(w.head(limit.Download, p))
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback")
	down += len(w.head(limit.Download, p))
	w.starves(limit.Download, 1)
	w.adm.feed(limit.Download, 2)
	w.starves(limit.Download, 1)
	p.expect("ba")
	w.adm.feed(limit.Download, 2)
	p.expect("ck")
	for range 2 {
		p.send(get(u, "/", ""))
		up += len(w.head(limit.Upload, q))
		q.send("HTTP/1.1 204 No Content\r\n\r\n")
		down += len(w.head(limit.Download, p))
	}
	w.moved(limit.Upload, up+4)
	w.moved(limit.Download, down+4)
	// With enough in hand, all goes out at once.
	w.adm.feed(limit.Upload, 1000)
	w.adm.feed(limit.Download, 1000)
	p.send(get(u, "/", ""))
	q.readHead()
	q.send("HTTP/1.1 204 No Content\r\n\r\n")
	p.response("GET")
	if n := w.Counters().Refused.Load(); n != 0 {
		t.Errorf("%d refusals", n)
	}
}

// A paced exchange is no stalled one; and whatever ends it ends the wait.
func TestPacedExchangeIsAlive(t *testing.T) {
	const timeout = 20 * time.Millisecond
	w := pacedWorld(t, policy(func(p *Policy) { p.ResponseTimeout = timeout }))
	u := newUpstream(t, nil)
	p := w.dial()
	p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
	q := u.accept()
	w.head(limit.Upload, q)
	pause := func() {
		began := time.Now()
		eventually(t, "several timeouts have passed", func() bool { return time.Since(began) > 5*timeout })
	}
	w.starves(limit.Upload, 1)
	pause()
	w.adm.feed(limit.Upload, 4)
	q.expect("body")
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nback")
	w.starves(limit.Download, 1)
	pause()
	w.head(limit.Download, p)
	w.adm.feed(limit.Download, 8)
	p.expect("back") // and now nothing more comes
	p.expectReset()
	q.expectReset()
}

// A client that goes away, and an upstream that answers before it has the whole request, end the
// wait of a plain request's content.
func TestStarvingExchangeEnds(t *testing.T) {
	w := pacedWorld(t)
	u := newUpstream(t, nil)
	request := "POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
	p := w.dial()
	p.send(request)
	q := u.accept()
	w.head(limit.Upload, q)
	w.starves(limit.Upload, 1)
	p.reset()
	q.expectReset()
	w.starves(limit.Upload, 0)

	p = w.dial()
	p.send(request)
	q = u.accept()
	w.head(limit.Upload, q)
	w.starves(limit.Upload, 1)
	q.send("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
	if head := w.head(limit.Download, p); !strings.HasPrefix(head, "HTTP/1.1 413 ") {
		t.Error(head)
	}
	w.adm.feed(limit.Download, 5)
	p.expect("large")
	w.starves(limit.Upload, 0)

	// Once with the response: its client resets.
	p = w.dial()
	p.send(get(u, "/", ""))
	q = u.accept()
	w.head(limit.Upload, q)
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlarge")
	w.starves(limit.Download, 1)
	p.reset()
	q.expectReset()
	w.starves(limit.Download, 0)
}
