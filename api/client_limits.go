package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// WriteOption changes how a limit is written.
type WriteOption func(*call)

// Evict also closes connections above a lowered limit, the newest on each node first.
func Evict() WriteOption { return func(k *call) { k.query.Set("evict", "true") } }

// IfIndex writes only if the present value was last changed at this index: a Limit's ModifyIndex,
// or for all limits the Index of Limits or of a dry run. Otherwise the write fails with status 412.
func IfIndex(index uint64) WriteOption {
	return func(k *call) { k.header.Set("If-Match", etag(index)) }
}

// IfAbsent writes only if there is no limit with this pattern.
func IfAbsent() WriteOption { return func(k *call) { k.header.Set("If-None-Match", "*") } }

func limitCall(method, pattern string, opts []WriteOption) call {
	k := call{method: method, path: pathLimits, query: url.Values{}, header: http.Header{}}
	if pattern != "" {
		k.path = pathLimit + url.PathEscape(pattern)
	}
	for _, o := range opts {
		o(&k)
	}
	return k
}

// Limits lists all limits.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	return do[Limits](ctx, c, limitCall("GET", "", nil))
}

// Limit returns the limit with exactly this pattern.
func (c *Client) Limit(ctx context.Context, pattern string) (Limit, error) {
	return do[Limit](ctx, c, limitCall("GET", pattern, nil))
}

// PutLimit sets the limit with l's pattern.
func (c *Client) PutLimit(ctx context.Context, l Limit, opts ...WriteOption) (LimitWritten, error) {
	k := limitCall("PUT", l.Pattern, opts)
	k.body = l
	return do[LimitWritten](ctx, c, k)
}

// DeleteLimit removes the limit with this pattern.
func (c *Client) DeleteLimit(ctx context.Context, pattern string, opts ...WriteOption) (LimitDeleted, error) {
	return do[LimitDeleted](ctx, c, limitCall("DELETE", pattern, opts))
}

// ReplaceLimits replaces all the cluster's limits.
func (c *Client) ReplaceLimits(ctx context.Context, ls []Limit, opts ...WriteOption) (LimitsReplaced, error) {
	k := limitCall("PUT", "", opts)
	k.body = Limits{Limits: append([]Limit{}, ls...)}
	return do[LimitsReplaced](ctx, c, k)
}

// CompareLimits returns the changes that ReplaceLimits would make, and changes nothing.
func (c *Client) CompareLimits(ctx context.Context, ls []Limit) (LimitsReplaced, error) {
	dry := func(k *call) { k.query.Set("dry_run", "true") }
	return c.ReplaceLimits(ctx, ls, dry)
}

// HostQuery selects hosts; see [Hosts]. The zero value selects the first page.
type HostQuery struct {
	Prefix string // only hosts that begin with it
	Sort   string // a field's name: "host" (the default), or a number, the largest first: "in_use", "waiting", …
	Limit  int    // the size of the page, 1 to 10000; 0: 1000
	After  string // an earlier answer's Next, to go on behind it
	Local  bool   // only the use of the node that is called
}

// Hosts lists the use of hosts.
func (c *Client) Hosts(ctx context.Context, q HostQuery) (Hosts, error) {
	v := values("prefix", q.Prefix, "sort", q.Sort, "after", q.After)
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Local {
		v.Set("local", "true")
	}
	return do[Hosts](ctx, c, call{method: "GET", path: pathHosts, query: v})
}

// Host returns the use of one host.
func (c *Client) Host(ctx context.Context, host string) (Host, error) {
	return do[Host](ctx, c, call{method: "GET", path: pathHosts + "/" + url.PathEscape(host)})
}
