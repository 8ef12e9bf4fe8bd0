package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// NodeConfig answers GET /v1/config.
type NodeConfig struct {
	Node     string    `json:"node"`
	Settings []Setting `json:"settings"` // in the order of the reference
}

// Setting is one attribute of a node's configuration.
type Setting struct {
	Path  string `json:"path"`  // "proxy.listen"
	Value string `json:"value"` // in the file's syntax; a secret is "(hidden)"
	// At is the file:line that sets it; absent for a default or derived value, and where another
	// value stands there now, which waits for a restart.
	At string `json:"at,omitempty"`
}

// Logs answers GET /v1/logs.
type Logs struct {
	Node  string   `json:"node"`
	Lines []string `json:"lines"` // oldest first
}

// System answers GET /v1/system.
type System struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Commit  string    `json:"commit"`
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"` // that the process uses
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"` // by the node's clock
	// OpenFiles counts the process's open descriptors; -1 if the system does not say.
	OpenFiles int    `json:"open_files"`
	MaxFiles  uint64 `json:"max_files"`
	// DataFree and DataTotal describe the file system of data_dir, in bytes; 0 without one.
	DataFree  uint64 `json:"data_free"`
	DataTotal uint64 `json:"data_total"`
}

// Config returns the configuration that a node runs, without secrets; "" is the client's own node.
func (c *Client) Config(ctx context.Context, node string) (NodeConfig, error) {
	return do[NodeConfig](ctx, c, call{method: http.MethodGet, path: PathConfig, query: atNode(node)})
}

// Logs returns the newest lines of a node's log, at most 1000.
func (c *Client) Logs(ctx context.Context, node string, lines int) (Logs, error) {
	q := atNode(node)
	q.Set("lines", strconv.Itoa(lines))
	return do[Logs](ctx, c, call{method: http.MethodGet, path: PathLogs, query: q})
}

// System describes a node's process and machine.
func (c *Client) System(ctx context.Context, node string) (System, error) {
	return do[System](ctx, c, call{method: http.MethodGet, path: PathSystem, query: atNode(node)})
}

func atNode(node string) url.Values {
	q := url.Values{}
	if node != "" {
		q.Set("node", node)
	}
	return q
}

// Fetch writes the answer to a GET of path (with its query) to w, up to 64 MiB of it. If ctx ends
// first, the part that has arrived is written, and the error is the context's.
func (c *Client) Fetch(ctx context.Context, path string, w io.Writer) error {
	req, err := c.request(ctx, call{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read the answer of %s: %w", c.base.String(), err)
		}
		return ParseProblem(res.StatusCode, res.Header, b)
	}
	n, err := io.Copy(w, io.LimitReader(res.Body, maxAnswer))
	if err == nil && n == maxAnswer {
		err = fmt.Errorf("the answer of %s was cut after %d bytes", c.base.String(), n)
	}
	return err
}
