package connlimit

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnswer: a refused client reads an answer, over TLS too, though it has sent more than was
// read; and one that says nothing holds up nobody.
func TestAnswer(t *testing.T) {
	config := perClient(0)
	config.Answer = AnswerHTTP
	config.RetryAfter = 1500 * time.Millisecond
	for _, secure := range []bool{false, true} {
		l := newLimiter(t, config)
		raw := listen(t)
		inner := net.Listener(raw)
		if secure {
			inner = tls.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
		}
		ln := l.Listener(inner)
		greet(t, ln)
		for range 20 {
			dial(t, raw.Addr()) // says nothing
		}
		c := dial(t, raw.Addr())
		if secure {
			c = insecure(c)
		}
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 200000\r\n")
		io.WriteString(c, "\r\n"+strings.Repeat("x", 20_000))
		resp := answered(t, c)
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "2" || !resp.Close {
			t.Errorf("secure %v: %s, %v; want 429, to try again after 2", secure, resp.Status, resp.Header)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("secure %v: after the answer: %v; want the end, not a reset, which may overtake the answer", secure, err)
		}
		ln.Close()
	}
}

// TestAnswersAreBounded: in number, and each in time.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := perClient(0)
		config.MaxAnswers, config.AnswerTimeout = 2, time.Second
		config.Answer = func(c net.Conn, err error) { io.Copy(io.Discard, c) }
		l := newLimiter(t, config)
		inner := newPipes()
		ln := l.Listener(inner)
		go ln.Accept()
		start := time.Now()
		for i, want := range []time.Duration{time.Second, time.Second, 0} {
			c := inner.dial("192.0.2.1")
			synctest.Wait()
			if i == 2 {
				c.Read(make([]byte, 1))
				if d := time.Since(start); d != want {
					t.Errorf("the third was closed after %v; want at once", d)
				}
			} else {
				defer func() {
					c.Read(make([]byte, 1))
					if d := time.Since(start); d != want {
						t.Errorf("closed after %v; want %v", d, want)
					}
				}()
			}
		}
		ln.Close()
	})
}

// halfClosing can end its sending side, and is of a type that can't be compared.
type halfClosing struct{ uncomparable }

func (h halfClosing) CloseWrite() error { return nil }

// TestLingerOfAnyType: the end of an answer does not compare connections.
func TestLingerOfAnyType(t *testing.T) {
	client, server := net.Pipe()
	client.Close()
	linger(halfClosing{uncomparable{conn: conn{Conn: server}}})
}
