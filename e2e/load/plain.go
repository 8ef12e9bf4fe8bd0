package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// How an exchange can break: before an answer, or after its head.
var (
	errUnanswered = errors.New("no answer")
	errCut        = errors.New("the answer broke off")
)

// keptConn is a plain HTTP client's connection to its proxy, kept from one request to the next.
type keptConn struct {
	conn net.Conn
	r    *bufio.Reader
}

// get asks the plan's upstream, in absolute form, to answer after the plan's hold. The error is a
// *Refusal for every status but 200.
func (k *keptConn) get(ctx context.Context, proxy string, p *Plan) error {
	reused := k.conn != nil
	err := k.exchange(ctx, proxy, p)
	if reused && errors.Is(err, errUnanswered) && ctx.Err() == nil {
		err = k.exchange(ctx, proxy, p) // the proxy had ended the idle connection meanwhile
	}
	return err
}

func (k *keptConn) exchange(ctx context.Context, proxy string, p *Plan) error {
	if k.conn == nil {
		by := p.Dial
		if by == nil {
			by = dial
		}
		conn, err := by(ctx, proxy)
		if err != nil {
			return err
		}
		k.conn, k.r = conn, bufio.NewReader(conn)
	}
	conn := k.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	last, err := ask(conn, k.r, p)
	if !stop() || last {
		k.close()
	}
	return err
}

// ask sends one request and reads its answer; last tells that the connection can't carry another.
func ask(conn net.Conn, r *bufio.Reader, p *Plan) (last bool, err error) {
	request := fmt.Sprintf("GET http://%[1]s/hold?ms=%[2]d HTTP/1.1\r\nHost: %[1]s\r\n%[3]s\r\n", p.Target, p.Hold.Milliseconds(), p.Fields)
	if _, err := io.WriteString(conn, request); err != nil {
		return true, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return true, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	if resp.StatusCode != http.StatusOK {
		refused := refusal(resp)
		_, err := io.Copy(io.Discard, resp.Body)
		return resp.Close || err != nil, refused
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return true, fmt.Errorf("%w: %w", errCut, err)
	}
	return resp.Close, nil
}

func (k *keptConn) close() {
	if k.conn != nil {
		_ = k.conn.Close()
		k.conn = nil
	}
}
