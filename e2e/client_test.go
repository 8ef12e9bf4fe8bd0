package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// client speaks a node's HTTP API as its documentation has it, and knows nothing of the program's
// own client.
type client struct {
	base string
	http *http.Client
}

func newClient(addr string) *client {
	return &client{base: "http://" + addr, http: &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true}, // nodes come and go
	}}
}

// answer is a response read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call makes a call; a body is sent as JSON. The error is that there was no answer.
func (c *client) call(method, path, body string, header map[string]string) (*answer, error) {
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPut || method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: text}, nil
}

// read makes a GET that must answer 200 and decodes it into v.
func (c *client) read(path string, v any) error {
	a, err := c.call(http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("GET %s answers %d: %s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("GET %s: %w in %s", path, err, a.body)
	}
	return nil
}

// must makes a call whose status must be want.
func (c *client) must(t testing.TB, want int, method, path, body string, header map[string]string) *answer {
	t.Helper()
	a, err := c.call(method, path, body, header)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != want {
		t.Fatalf("%s %s answers %d: %s; want %d", method, path, a.status, a.body, want)
	}
	return a
}

// The parts of answers that the scenarios look at.
type (
	statusAnswer struct {
		Node        string `json:"node"`
		Cluster     string `json:"cluster"`
		Leader      string `json:"leader"`
		Ready       bool   `json:"ready"`
		DiskFull    bool   `json:"disk_full"`
		DiskStalled bool   `json:"disk_stalled"`
		Session     struct {
			ID        uint64 `json:"id"`
			State     string `json:"state"`
			ExpiresIn string `json:"expires_in"`
		} `json:"session"`
		Raft struct {
			State     string `json:"state"`
			LastIndex uint64 `json:"last_index"`
		} `json:"raft"`
	}
	useAnswer struct {
		Limit    *int   `json:"limit"`
		Granted  int    `json:"granted"`
		InUse    int    `json:"in_use"`
		Waiting  int    `json:"waiting"`
		Admitted uint64 `json:"admitted_total"`
		Rejected uint64 `json:"rejected_total"`
	}
	hostAnswer struct {
		Host string `json:"host"`
		useAnswer
		Nodes map[string]useAnswer `json:"nodes"`
	}
	limitAnswer struct {
		Pattern     string       `json:"pattern"`
		Connections *int         `json:"connections"`
		Queue       *queueAnswer `json:"queue"`
		Source      string       `json:"source"`
	}
	queueAnswer struct {
		Timeout string `json:"timeout"`
		Size    int    `json:"size"`
	}
	nodeAnswer struct {
		Name    string `json:"name"`
		Role    string `json:"role"`
		Leader  bool   `json:"leader"`
		Health  string `json:"health"`
		Session string `json:"session"`

		Addresses struct {
			RPC string `json:"rpc"`
		} `json:"addresses"`
	}
	peersAnswer struct {
		Peers []struct {
			Name string `json:"name"`
		} `json:"peers"`
	}
)

func (c *client) status() (s statusAnswer, err error) {
	err = c.read("/v1/status", &s)
	return s, err
}

func (c *client) host(t testing.TB, host string) hostAnswer {
	t.Helper()
	var h hostAnswer
	if err := c.read("/v1/hosts/"+url.PathEscape(host), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func (c *client) nodes(t testing.TB) map[string]nodeAnswer {
	t.Helper()
	var list struct {
		Nodes []nodeAnswer `json:"nodes"`
	}
	if err := c.read("/v1/nodes", &list); err != nil {
		t.Fatal(err)
	}
	byName := map[string]nodeAnswer{}
	for _, n := range list.Nodes {
		byName[n.Name] = n
	}
	return byName
}

func limitPath(pattern string) string { return "/v1/limits/host/" + url.PathEscape(pattern) }

// connections is a limit's JSON without a queue, queued with one.
func connections(n int) string { return fmt.Sprintf(`{"connections":%d}`, n) }

func queued(n int, timeout time.Duration, size int) string {
	return fmt.Sprintf(`{"connections":%d,"queue":{"timeout":%q,"size":%d}}`, n, timeout, size)
}

// setLimit puts a limit that must be taken, on this node and then seen by it.
func (c *client) setLimit(t testing.TB, pattern, body string) *answer {
	t.Helper()
	return c.must(t, http.StatusOK, http.MethodPut, limitPath(pattern), body, nil)
}

// limitIs checks a limit's connections as the node sees them.
func (c *client) limitIs(pattern string, want int) error {
	var l limitAnswer
	if err := c.read(limitPath(pattern), &l); err != nil {
		return err
	}
	if l.Connections == nil || *l.Connections != want {
		return fmt.Errorf("connections of %s: %v; want %d", pattern, text(l.Connections), want)
	}
	return nil
}

func text(n *int) string {
	if n == nil {
		return "null"
	}
	return fmt.Sprint(*n)
}
