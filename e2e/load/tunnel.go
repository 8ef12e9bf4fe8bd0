package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxReason bounds what is kept of a refusal's text.
const maxReason = 4 << 10

// Refusal is a proxy's answer that there will be no connection.
type Refusal struct {
	Status      int
	Phrase      string // the rest of the status line
	ProxyStatus string // the Proxy-Status field, "" if absent
	RetryAfter  string // the Retry-After field, "" if absent
	Text        string // the body
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused with %d (%s): %s", r.Status, r.ProxyStatus, strings.TrimSpace(r.Text))
}

// Reason is the error token of Proxy-Status (RFC 9209, section 2.1.1), or the status where there is
// none.
func (r *Refusal) Reason() string {
	for param := range strings.SplitSeq(r.ProxyStatus, ";") {
		if token, ok := strings.CutPrefix(strings.TrimSpace(param), "error="); ok {
			return token
		}
	}
	return fmt.Sprintf("status %d", r.Status)
}

// Tunnel is a connection through a proxy to a counting upstream.
type Tunnel struct {
	net.Conn
	r *bufio.Reader
}

// Connect opens a tunnel through proxy to target, both host:port. The error is a *Refusal if the
// proxy answered anything but 200. A context that ends before the answer closes the connection.
func Connect(ctx context.Context, proxy, target string) (*Tunnel, error) {
	return ConnectBy(ctx, nil, proxy, target)
}

// Dial makes the connection to a proxy.
type Dial func(ctx context.Context, proxy string) (net.Conn, error)

// ConnectBy is Connect over a connection that by makes; nil: as the machine does.
func ConnectBy(ctx context.Context, by Dial, proxy, target string) (*Tunnel, error) {
	return Caller{Dial: by}.Connect(ctx, proxy, target)
}

// Caller is a client: where it comes from, and who it says it is.
type Caller struct {
	Dial   Dial   // nil: as the machine does
	Fields string // further fields of its request, each with its CRLF
}

// Connect is [Connect] by this client.
func (c Caller) Connect(ctx context.Context, proxy, target string) (*Tunnel, error) {
	by := c.Dial
	if by == nil {
		by = dial
	}
	conn, err := by(ctx, proxy)
	if err != nil {
		return nil, err
	}
	t := &Tunnel{Conn: conn, r: bufio.NewReader(conn)}
	if err := t.ask(ctx, target, c.Fields); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tunnel) ask(ctx context.Context, target, fields string) error {
	stop := context.AfterFunc(ctx, func() { _ = t.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(t, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, target, fields); err != nil {
		return err
	}
	resp, err := http.ReadResponse(t.r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	if !stop() { // the deadline is spoilt, or about to be
		return context.Cause(ctx)
	}
	return nil
}

// Hold asks the upstream to answer after d, and waits for the answer.
func (t *Tunnel) Hold(d time.Duration) error {
	return t.exchange(fmt.Sprintf("hold %v\n", d), "held\n")
}

// HoldAndEnd asks the upstream to answer and end its side after d, and ends this side after it.
func (t *Tunnel) HoldAndEnd(d time.Duration) error {
	if err := t.exchange(fmt.Sprintf("close %v\n", d), "closed\n"); err != nil {
		return err
	}
	return t.End()
}

// End ends this side and waits for the other's end: when it returns nil the upstream counts the
// connection no more, unless it had ended its own side first.
func (t *Tunnel) End() error {
	w, ok := t.Conn.(interface{ CloseWrite() error })
	if !ok {
		return t.Close()
	}
	if err := w.CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, t.r)
	return errors.Join(err, t.Close())
}

// Broken waits until the other side ends or resets the tunnel and reports how: nil for an orderly
// end. A tunnel that is still alive when wait is over answers os.ErrDeadlineExceeded.
func (t *Tunnel) Broken(wait time.Duration) error {
	if err := t.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	defer func() { _ = t.SetReadDeadline(time.Time{}) }()
	_, err := io.Copy(io.Discard, t.r)
	return err
}

func (t *Tunnel) exchange(send, want string) error {
	if _, err := io.WriteString(t, send); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(t.r, got); err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("the upstream answered %q to %q; want %q", got, send, want)
	}
	return nil
}

func dial(ctx context.Context, proxy string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", proxy)
}

func refusal(resp *http.Response) *Refusal {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // where it breaks off, the head says enough
	return &Refusal{
		Status: resp.StatusCode, Phrase: strings.TrimPrefix(resp.Status, fmt.Sprintf("%d ", resp.StatusCode)), ProxyStatus: resp.Header.Get("Proxy-Status"),
		RetryAfter: resp.Header.Get("Retry-After"), Text: string(text),
	}
}
