package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// MaxSnapshot bounds a snapshot, in bytes.
const MaxSnapshot = 1 << 30

// SnapshotRestored answers PUT /v1/snapshot.
type SnapshotRestored struct {
	Index uint64 `json:"index"` // the write's log index
	// Limits counts the snapshot's limits, in both layers.
	Limits int `json:"limits"`
	// Added, Changed and Removed count the differences in the limits in force.
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Removed int `json:"removed"`
}

// SaveSnapshot streams the cluster's state to w: check it with
// [github.com/weirproxy/weir/fsm.ReadSummary] before relying on it. It returns the state's log
// index.
func (c *Client) SaveSnapshot(ctx context.Context, w io.Writer) (index uint64, err error) {
	req, err := c.request(ctx, call{method: http.MethodGet, path: PathSnapshot})
	if err != nil {
		return 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return 0, fmt.Errorf("read the answer of %s: %w", c.base.String(), err)
		}
		return 0, ParseProblem(res.StatusCode, res.Header, b)
	}
	if got := res.Header.Get("Content-Type"); got != MediaSnapshot {
		return 0, fmt.Errorf("%s does not answer as weir does, but with %q: is it the API's address?", c.base.String(), got)
	}
	n, err := io.Copy(w, io.LimitReader(res.Body, MaxSnapshot+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("the snapshot was not received to its end: %w", err)
	case n > MaxSnapshot:
		return 0, fmt.Errorf("the snapshot of %s is longer than %d bytes", c.base.String(), MaxSnapshot)
	}
	index, err = strconv.ParseUint(res.Header.Get(HeaderIndex), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the snapshot of %s has no index: %w", c.base.String(), err)
	}
	return index, nil
}

// RestoreSnapshot replaces the cluster's limits by those of the snapshot in r.
func (c *Client) RestoreSnapshot(ctx context.Context, r io.Reader) (SnapshotRestored, error) {
	return do[SnapshotRestored](ctx, c, call{method: http.MethodPut, path: PathSnapshot, stream: r})
}
