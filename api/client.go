package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultAddr is where a node's API listens unless its config says otherwise.
const DefaultAddr = "http://127.0.0.1:8081"

// Client calls one node's API. Its methods return a *[Problem] when the node refuses, and another error when it
// couldn't be asked. It is safe for concurrent use.
type Client struct {
	base  url.URL
	token string
	http  *http.Client
	tee   io.Writer
}

// NewClient makes a client for the node at addr ("http://host:port", or "host:port"; "" is [DefaultAddr]). token may
// be empty. transport may be nil: then the client has its own, which heeds no proxy settings, because weir's workers
// have them set to weir itself.
func NewClient(addr, token string, transport http.RoundTripper) (*Client, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is not an API address: write it as %s", addr, DefaultAddr)
	}
	if transport == nil {
		transport = &http.Transport{IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 4}
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		base:  url.URL{Scheme: u.Scheme, Host: u.Host},
		token: token,
		http:  &http.Client{Transport: transport, CheckRedirect: refuse},
	}, nil
}

// Addr is the node's address, with its scheme.
func (c *Client) Addr() string { return c.base.String() }

// Tee returns a client that also writes each successful answer's body to w, byte for byte.
func (c *Client) Tee(w io.Writer) *Client {
	d := *c
	d.tee = w
	return &d
}

// CloseIdle closes connections that are kept for reuse.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// call is one request; the zero value of each field leaves it out.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	header http.Header
	body   any
}

// do makes a call and decodes its answer.
func do[T any](ctx context.Context, c *Client, k call) (a T, err error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return a, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxPeerAnswer+1))
	switch {
	case err != nil:
		return a, fmt.Errorf("read the answer of %s: %w", c.base.String(), err)
	case len(b) > maxPeerAnswer:
		return a, fmt.Errorf("the answer of %s is longer than %d bytes", c.base.String(), maxPeerAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return a, decodeProblem(res.StatusCode, res.Header, b)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%s does not answer as weir does: is it the API's address? (%w)", c.base.String(), err)
	}
	if c.tee != nil {
		if _, err := c.tee.Write(b); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	var body io.Reader
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	target := c.base.String() + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, v := range k.header {
		req.Header[name] = v
	}
	if k.method == http.MethodPut || k.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// decodeProblem reads an error answer; one that isn't a problem (a proxy's in between, perhaps) becomes one.
func decodeProblem(status int, h http.Header, body []byte) error {
	p := new(Problem)
	if strings.HasPrefix(h.Get("Content-Type"), "application/problem+json") && json.Unmarshal(body, p) == nil && p.Status != 0 {
		return p
	}
	return problemf(status, "unknown", "status %d: %s", status, shorten(strings.TrimSpace(string(body))))
}

// Status describes the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return do[Status](ctx, c, call{method: "GET", path: "/v1/status"})
}

// Ready returns nil when the node can admit connections.
func (c *Client) Ready(ctx context.Context) error {
	_, err := do[Health](ctx, c, call{method: "GET", path: pathReadyz})
	return err
}

// Healthy returns nil when the node answers.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := do[Health](ctx, c, call{method: "GET", path: pathHealthz})
	return err
}

// Nodes lists the members.
func (c *Client) Nodes(ctx context.Context) (Nodes, error) {
	return do[Nodes](ctx, c, call{method: "GET", path: "/v1/nodes"})
}

// Drain starts draining the node.
func (c *Client) Drain(ctx context.Context) (Started, error) {
	return do[Started](ctx, c, call{method: "POST", path: "/v1/drain"})
}

// Leave starts taking the node out of the cluster.
func (c *Client) Leave(ctx context.Context) (Started, error) {
	return do[Started](ctx, c, call{method: "POST", path: "/v1/leave"})
}

// Reload makes the node read its configuration again.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	return do[Reloaded](ctx, c, call{method: "POST", path: "/v1/reload"})
}

// Connections lists the node's open upstream connections, to one host or with "" to all.
func (c *Client) Connections(ctx context.Context, host string) (ConnectionList, error) {
	k := call{method: "GET", path: "/v1/connections"}
	if host != "" {
		k.query = url.Values{"host": {host}}
	}
	return do[ConnectionList](ctx, c, k)
}

// CloseConnection closes one.
func (c *Client) CloseConnection(ctx context.Context, id string) (ConnectionClosed, error) {
	return do[ConnectionClosed](ctx, c, call{method: "DELETE", path: "/v1/connections/" + url.PathEscape(id)})
}

// RaftPeers lists the consensus group.
func (c *Client) RaftPeers(ctx context.Context) (RaftPeers, error) {
	return do[RaftPeers](ctx, c, call{method: "GET", path: "/v1/raft/peers"})
}

// RemoveRaftPeer takes a peer out of the consensus group.
func (c *Client) RemoveRaftPeer(ctx context.Context, name string) (RaftPeerRemoved, error) {
	return do[RaftPeerRemoved](ctx, c, call{method: "DELETE", path: "/v1/raft/peers/" + url.PathEscape(name)})
}

// TransferLeadership hands leadership to a peer, or with "" to the one that is furthest.
func (c *Client) TransferLeadership(ctx context.Context, to string) (RaftTransferred, error) {
	return do[RaftTransferred](ctx, c, call{method: "POST", path: "/v1/raft/transfer", body: RaftTransfer{To: to}})
}
