package upstream

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxHold bounds what a client may ask for; maxLine and maxEcho what it may send.
const (
	maxHold = 10 * time.Minute
	maxLine = 256
	maxEcho = 1 << 20
	maxGive = 1 << 30
)

// block is what is given at a time.
var block [32 << 10]byte

// errDone ends a conversation from the server's side.
var errDone = errors.New("the server is done")

// session is one connection's conversation.
type session struct {
	conn  net.Conn // the TCP connection, or TLS over it
	r     *bufio.Reader
	notes notes
}

// converse talks until either side is done, passes the server's end on and returns what ended the
// peer's side: io.EOF or the read error. It leaves the connection open.
func converse(c *listened, config *tls.Config, n notes) error {
	x := &session{conn: c, notes: n}
	if config != nil {
		x.conn = tls.Server(c, config)
	}
	x.r = bufio.NewReader(x.conn)
	for {
		if err := x.next(); err != nil {
			return awaitEnd(c, x.conn, err)
		}
	}
}

// awaitEnd returns once the peer's end has been seen on the TCP connection, whatever the layer
// above made of it.
func awaitEnd(c *listened, conn net.Conn, why error) error {
	secure, isTLS := conn.(*tls.Conn)
	if (why == io.EOF && !isTLS) || errors.Is(why, syscall.ECONNRESET) {
		return why // it is the TCP connection's end, and is told only once
	}
	if isTLS {
		_ = secure.CloseWrite() // the alert only: a client may wait for it before it ends the connection
	}
	if errors.Is(why, errDone) {
		_ = c.CloseWrite()
	}
	_, err := io.Copy(io.Discard, c)
	if err == nil {
		return io.EOF
	}
	return err
}

// next serves one line or one request.
func (x *session) next() error {
	first, err := x.r.Peek(1)
	if err != nil {
		return err
	}
	x.notes.request()
	if first[0] >= 'A' && first[0] <= 'Z' {
		return x.request()
	}
	return x.line()
}

func (x *session) line() error {
	text, err := readLine(x.r)
	if err != nil {
		return err
	}
	verb, arg, _ := strings.Cut(text, " ")
	switch verb {
	case "echo":
		if _, err := io.Copy(x.conn, x.r); err != nil {
			return err
		}
		return io.EOF
	case "take":
		if _, err := io.Copy(x.notes, x.r); err != nil {
			return err
		}
		return io.EOF
	case "give":
		n, err := amount(arg)
		if err != nil {
			return x.say("bad amount\n", errDone)
		}
		return x.give(n)
	case "hold", "close":
		d, err := time.ParseDuration(arg)
		if err != nil || d < 0 || d > maxHold {
			return x.say("bad duration\n", errDone)
		}
		if err := x.hold(d); err != nil {
			return err
		}
		if verb == "hold" {
			return x.say("held\n", nil)
		}
		return x.say("closed\n", errDone)
	}
	return x.say("unknown line: write hold, close, echo, give or take\n", errDone)
}

func (x *session) request() error {
	req, err := http.ReadRequest(x.r)
	if err != nil {
		return x.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", errDone)
	}
	last := req.Close || req.URL.Path == "/close"
	if req.URL.Path == "/give" {
		return x.giveBody(req.URL.Query().Get("bytes"))
	}
	status, body, err := x.answer(req)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n",
		status, http.StatusText(status), len(body))
	if last {
		return x.say(head+"Connection: close\r\n\r\n"+body, errDone)
	}
	return x.say(head+"\r\n"+body, nil)
}

func (x *session) answer(req *http.Request) (status int, body string, err error) {
	switch req.URL.Path {
	case "/hold", "/close":
		ms, err := strconv.Atoi(req.URL.Query().Get("ms"))
		if err != nil || ms < 0 || ms > int(maxHold/time.Millisecond) {
			return http.StatusBadRequest, "ms must be a number of milliseconds\n", nil
		}
		if err := x.hold(time.Duration(ms) * time.Millisecond); err != nil {
			return 0, "", err
		}
		return http.StatusOK, "held\n", nil
	case "/take":
		n, err := io.Copy(x.notes, req.Body)
		return http.StatusOK, fmt.Sprintf("%d\n", n), err
	case "/echo":
		b, err := io.ReadAll(io.LimitReader(req.Body, maxEcho))
		return http.StatusOK, string(b), err
	}
	return http.StatusNotFound, "no such path\n", nil
}

// amount reads a number of bytes.
func amount(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && (n < 0 || n > maxGive) {
		err = strconv.ErrRange
	}
	return n, err
}

// give sends n bytes. Its error is that of the write: the peer takes no more.
func (x *session) give(n int) error {
	for n > 0 {
		k, err := x.conn.Write(block[:min(n, len(block))])
		if err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// giveBody is give as a response's content.
func (x *session) giveBody(text string) error {
	n, err := amount(text)
	if err != nil {
		return x.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", errDone)
	}
	if _, err := fmt.Fprintf(x.conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n); err != nil {
		return err
	}
	return x.give(n)
}

// hold waits for d, or until the peer's end has arrived, which it returns.
func (x *session) hold(d time.Duration) error {
	if err := x.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	defer func() { _ = x.conn.SetReadDeadline(time.Time{}) }()
	for {
		_, err := x.r.Peek(x.r.Buffered() + 1) // behind what the peer has sent ahead
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// say writes text; a failure to write is left to the next read, which knows how the peer ended.
func (x *session) say(text string, then error) error {
	_, _ = io.WriteString(x.conn, text)
	return then
}

// readLine reads up to a newline, at most maxLine bytes.
func readLine(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for b.Len() < maxLine {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return strings.TrimSuffix(b.String(), "\r"), nil
		}
		b.WriteByte(c)
	}
	return "", errDone
}
