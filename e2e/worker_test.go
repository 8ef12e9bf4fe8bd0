package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// worker is a client of the fleet: where it comes from, and who it says it is.
type worker struct {
	address string
	caller  load.Caller
}

// from is a worker at an address of this machine.
func from(address string) *worker {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &worker{address: address, caller: load.Caller{Dial: func(ctx context.Context, proxy string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", proxy)
	}}}
}

// as is a worker that says it is a user.
func as(user, password string) *worker { return from("127.0.0.1").as(user, password) }

// as makes the worker say that it is a user.
func (w *worker) as(user, password string) *worker {
	w.caller.Fields = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
	return w
}

// try opens a tunnel, waiting for the answer for at most 10 s.
func (w *worker) try(n *node, target string) (*load.Tunnel, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return w.caller.Connect(ctx, n.proxy, target)
}

// open opens a tunnel. A slot that was in use until a moment ago may take another to come.
func (w *worker) open(t testing.TB, n *node, target string) (tunnel *load.Tunnel) {
	t.Helper()
	eventually(t, 2*time.Second, fmt.Sprintf("a tunnel of %s through node %s to %s", w.address, n.name, target), func() (err error) {
		tunnel, err = w.try(n, target)
		return err
	})
	t.Cleanup(func() { _ = tunnel.Close() })
	return tunnel
}

// refuse is try where a limit must be in the way, as the phrase of the status line says.
func (w *worker) refuse(t testing.TB, n *node, target, phrase string) *load.Refusal {
	t.Helper()
	tunnel, err := w.try(n, target)
	var refused *load.Refusal
	switch {
	case err == nil:
		_ = tunnel.Close()
		t.Fatalf("node %s opens a tunnel of %s to %s; want a refusal: %s", n.name, w.address, target, phrase)
	case !errors.As(err, &refused) || refused.Reason() != "connection_limit_reached" || !strings.Contains(refused.Phrase, phrase):
		t.Fatalf("node %s on a tunnel of %s to %s: %v; want a refusal: %s", n.name, w.address, target, err, phrase)
	}
	return refused
}

// wire connects to a node, for plain requests.
func (w *worker) wire(t testing.TB, n *node) *wire {
	t.Helper()
	conn, err := w.caller.Dial(t.Context(), n.proxy)
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, conn)
}

// get is a plain request that the upstream answers after hold.
func (w *worker) get(target string, hold time.Duration) string {
	return fmt.Sprintf("GET http://%s/hold?ms=%d HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, hold.Milliseconds(), target, w.caller.Fields)
}

// answers waits until so many answers with a status have come over a wire.
func (w *wire) answers(t testing.TB, count, status int) {
	t.Helper()
	head := fmt.Appendf(nil, "HTTP/1.1 %d ", status)
	eventually(t, wireWithin, fmt.Sprintf("%d answers with %d", count, status), func() error {
		if got := bytes.Count(w.heard(), head); got != count {
			return fmt.Errorf("%d have come: %.300q", got, w.heard())
		}
		return nil
	})
}

// scopedPath is the path of a limit of any scope.
func scopedPath(scope, pattern string) string {
	if pattern == "" {
		return "/v1/limits/" + scope
	}
	return "/v1/limits/" + scope + "/" + url.PathEscape(pattern)
}

// put sets a limit of any scope through the first running node, and waits until all see it.
func (c *cluster) put(t testing.TB, scope, pattern, body string) {
	t.Helper()
	path := scopedPath(scope, pattern)
	c.running()[0].http.must(t, http.StatusOK, http.MethodPut, path, body, nil)
	c.awaitSame(t, path)
}

// drop deletes a limit, and waits until all see it.
func (c *cluster) drop(t testing.TB, scope, pattern string) {
	t.Helper()
	path := scopedPath(scope, pattern)
	c.running()[0].http.must(t, http.StatusOK, http.MethodDelete, path, "", nil)
	c.awaitSame(t, path)
}

// awaitSame waits until all running nodes answer a path as the first does.
func (c *cluster) awaitSame(t testing.TB, path string) {
	t.Helper()
	want, err := c.running()[0].http.call(http.MethodGet, path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.running() {
		eventually(t, 5*time.Second, "node "+n.name+" sees "+path, func() error {
			got, err := n.http.call(http.MethodGet, path, "", nil)
			if err == nil && (got.status != want.status || got.status == http.StatusOK && !bytes.Equal(got.body, want.body)) {
				err = fmt.Errorf("it answers %d: %s", got.status, got.body)
			}
			return err
		})
	}
}

// usageAnswer is GET /v1/usage/{scope}/{name}.
type usageAnswer struct {
	useAnswer
	WouldReject uint64   `json:"would_reject_total"`
	Requests    *rateUse `json:"requests"`
	Bandwidth   *struct {
		Upload, Download *rateUse
	} `json:"bandwidth"`
}

type rateUse struct {
	Rate        float64 `json:"rate"`
	Granted     float64 `json:"granted"`
	Now         float64 `json:"now"`
	Waiting     int     `json:"waiting"`
	Admitted    uint64  `json:"admitted_total"`
	Rejected    uint64  `json:"rejected_total"`
	WouldReject uint64  `json:"would_reject_total"`
}

func (c *client) usage(scope, name string) (u usageAnswer, err error) {
	err = c.read("/v1/usage/"+scope+"/"+url.PathEscape(name), &u)
	return u, err
}

// awaitUsage waits until so many slots of a name are in use, and so many requests wait for one.
func (c *cluster) awaitUsage(t testing.TB, scope, name string, inUse, waiting int) {
	t.Helper()
	eventually(t, 2*time.Second, fmt.Sprintf("%d of %s %s in use, %d waiting", inUse, scope, name, waiting), func() error {
		u, err := c.running()[0].http.usage(scope, name)
		if err == nil && (u.InUse != inUse || u.Waiting != waiting) {
			err = fmt.Errorf("%d in use, %d waiting", u.InUse, u.Waiting)
		}
		return err
	})
}
