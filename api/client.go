package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// DefaultAddr is the default address of a node's API.
const DefaultAddr = "http://127.0.0.1:8081"

// What a client accepts of a node.
const (
	maxAnswer     = 64 << 20 // bytes
	maxRefusal    = 1 << 20  // bytes, of one to follow the events
	maxRetryAfter = 3600     // seconds
)

// Client calls one node's API. Its methods return an *[Error] if the node refuses, and another
// error if the call failed otherwise. It is safe for concurrent use.
type Client struct {
	base  url.URL
	token string
	http  *http.Client
	tee   io.Writer
}

// NewClient makes a client for the node at addr ("http://host:port", or "host:port"; "" is
// [DefaultAddr]). token may be empty. If transport is nil, the client has its own, which ignores
// proxy settings: weir's workers have them set to weir itself.
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

// Error is a node's refusal. errors.As also finds the [Problem] in it.
type Error struct {
	Problem
	// RetryAfter is the pause that the node asks for; 0: none given.
	RetryAfter time.Duration
}

// Unwrap returns the problem as the node sent it.
func (e *Error) Unwrap() error { return &e.Problem }

// call describes one request. Zero fields are left out.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	header http.Header
	body   any
	// stream is a raw body, sent instead.
	stream io.Reader
}

// do makes a call and decodes its answer.
func do[T any](ctx context.Context, c *Client, k call) (a T, err error) {
	b, err := c.send(ctx, k)
	if err != nil {
		return a, err
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

// send makes a call and returns the body of a successful answer.
func (c *Client) send(ctx context.Context, k call) ([]byte, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer of %s: %w", c.base.String(), err)
	case len(b) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", c.base.String(), maxAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, refusal(res.StatusCode, res.Header, b)
	}
	return b, nil
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	var body io.Reader
	if k.stream != nil {
		body = k.stream
	} else if k.body != nil {
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
	if k.stream != nil {
		req.Header.Set("Content-Type", MediaSnapshot)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// refusal turns an error answer into the client's error.
func refusal(status int, h http.Header, body []byte) error {
	e := &Error{Problem: *ParseProblem(status, h, body)}
	// Seconds, RFC 9110, section 10.2.3; weir sends no dates.
	if n, err := strconv.Atoi(h.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(min(n, maxRetryAfter)) * time.Second
	}
	return e
}

// Status describes the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return do[Status](ctx, c, call{method: "GET", path: PathStatus})
}

// Ready returns nil if the node can admit connections.
func (c *Client) Ready(ctx context.Context) error {
	_, err := do[Health](ctx, c, call{method: "GET", path: PathReadyz})
	return err
}

// Healthy returns nil if the node answers.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := do[Health](ctx, c, call{method: "GET", path: PathHealthz})
	return err
}

// Metrics returns the node's metrics in Prometheus's text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.send(ctx, call{method: "GET", path: PathMetrics})
}

// OpenAPI returns the node's description of the API, in OpenAPI 3.1.
func (c *Client) OpenAPI(ctx context.Context) (json.RawMessage, error) {
	return do[json.RawMessage](ctx, c, call{method: "GET", path: PathOpenAPI})
}

// Nodes lists the members.
func (c *Client) Nodes(ctx context.Context) (Nodes, error) {
	return do[Nodes](ctx, c, call{method: "GET", path: PathNodes})
}

// Drain starts draining the node.
func (c *Client) Drain(ctx context.Context) (Started, error) {
	return do[Started](ctx, c, call{method: "POST", path: PathDrain})
}

// Undrain makes a draining node accept new work again.
func (c *Client) Undrain(ctx context.Context) (Started, error) {
	return do[Started](ctx, c, call{method: "DELETE", path: PathDrain})
}

// Leave starts to remove the node from the cluster.
func (c *Client) Leave(ctx context.Context) (Started, error) {
	return do[Started](ctx, c, call{method: "POST", path: PathLeave})
}

// Reload makes the node read its configuration again.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	return do[Reloaded](ctx, c, call{method: "POST", path: PathReload})
}

// ConnectionQuery selects connections. The zero value selects all of the node that is called.
type ConnectionQuery struct {
	Host   string // only those to this host, which may have a port
	Client string // only those of this address, or of this network
	User   string // only those of this user
	Key    string // only those that count under this name, as listed by [Client.Hosts]
	Node   string // those of another node; "*": of all
	// Limit bounds the answer; 0: the node's maximum.
	Limit int
	After string // an earlier answer's Next, to continue after it
}

// Connections lists open upstream connections, the oldest first.
func (c *Client) Connections(ctx context.Context, q ConnectionQuery) (ConnectionList, error) {
	v := values("host", q.Host, "client", q.Client, "user", q.User, "key", q.Key, "node", q.Node, "after", q.After)
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return do[ConnectionList](ctx, c, call{method: "GET", path: PathConnections, query: v})
}

// CloseConnection closes a connection of the named node or, with "", of the node that is called.
func (c *Client) CloseConnection(ctx context.Context, node, id string) (ConnectionClosed, error) {
	path := PathConnections + "/" + url.PathEscape(id)
	return do[ConnectionClosed](ctx, c, call{method: "DELETE", path: path, query: values("node", node)})
}

// values makes a query from alternating names and values; empty values are left out.
func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

// RaftPeers lists the consensus group.
func (c *Client) RaftPeers(ctx context.Context) (RaftPeers, error) {
	return do[RaftPeers](ctx, c, call{method: "GET", path: PathRaftPeers})
}

// RemoveRaftPeer removes a peer from the consensus group.
func (c *Client) RemoveRaftPeer(ctx context.Context, name string) (RaftPeerRemoved, error) {
	return do[RaftPeerRemoved](ctx, c, call{method: "DELETE", path: PathRaftPeers + "/" + url.PathEscape(name)})
}

// TransferLeadership hands leadership to a peer or, with "", to the most up-to-date one.
func (c *Client) TransferLeadership(ctx context.Context, to string) (RaftTransferred, error) {
	return do[RaftTransferred](ctx, c, call{method: "POST", path: PathRaftTransfer, body: RaftTransfer{To: to}})
}
