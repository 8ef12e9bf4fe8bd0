package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/weirproxy/weir/limit"
)

// WriteOption changes how a limit is written.
type WriteOption func(*call)

// Evict also closes connections above a lowered limit, the newest on each node first.
func Evict() WriteOption { return func(k *call) { k.query.Set("evict", "true") } }

// IfIndex writes only if the present value was last changed at this index: a Limit's ModifyIndex,
// or for all limits the Index of Limits or of a dry run. Otherwise the write fails with status 412.
func IfIndex(index uint64) WriteOption {
	return func(k *call) { k.header.Set("If-Match", ETag(index)) }
}

// IfAbsent writes only if there is no limit with this pattern.
func IfAbsent() WriteOption { return func(k *call) { k.header.Set("If-None-Match", "*") } }

func limitCall(method, path string, opts []WriteOption) call {
	k := call{method: method, path: path, query: url.Values{}, header: http.Header{}}
	for _, o := range opts {
		o(&k)
	}
	return k
}

// limitPath is the path of one limit.
func limitPath(scope, pattern string) string {
	path := PathLimits + "/" + url.PathEscape(cmp.Or(scope, limit.ScopeHost.String()))
	if pattern != "" {
		path += "/" + url.PathEscape(pattern)
	}
	return path
}

// Limits lists all limits.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	return do[Limits](ctx, c, limitCall("GET", PathLimits, nil))
}

// Limit returns the limit of a scope with exactly this pattern. The scopes total and connection
// have no patterns.
func (c *Client) Limit(ctx context.Context, scope, pattern string) (Limit, error) {
	return do[Limit](ctx, c, limitCall("GET", limitPath(scope, pattern), nil))
}

// PutLimit sets the limit with l's scope ("" is host) and pattern.
func (c *Client) PutLimit(ctx context.Context, l Limit, opts ...WriteOption) (LimitWritten, error) {
	k := limitCall("PUT", limitPath(l.Scope, l.Pattern), opts)
	k.body = l
	return do[LimitWritten](ctx, c, k)
}

// DeleteLimit removes the limit with this pattern.
func (c *Client) DeleteLimit(ctx context.Context, scope, pattern string, opts ...WriteOption) (LimitDeleted, error) {
	return do[LimitDeleted](ctx, c, limitCall("DELETE", limitPath(scope, pattern), opts))
}

// ReplaceLimits replaces all the cluster's limits.
func (c *Client) ReplaceLimits(ctx context.Context, ls []Limit, opts ...WriteOption) (LimitsReplaced, error) {
	k := limitCall("PUT", PathLimits, opts)
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
	return do[Hosts](ctx, c, call{method: "GET", path: PathHosts, query: q.values()})
}

// Usage lists the use of what counts in a scope; q.Sort is "name", or a number's field.
func (c *Client) Usage(ctx context.Context, scope string, q HostQuery) (Usages, error) {
	return do[Usages](ctx, c, call{method: "GET", path: PathUsage + "/" + url.PathEscape(scope), query: q.values()})
}

// UsageOf returns the use that counts under one name of a scope.
func (c *Client) UsageOf(ctx context.Context, scope, name string) (Usage, error) {
	return do[Usage](ctx, c, call{method: "GET", path: PathUsage + "/" + url.PathEscape(scope) + "/" + url.PathEscape(name)})
}

// ExplainQuery is what [Client.Explain] asks about; empty fields are left out.
type ExplainQuery struct {
	Host   string // with a port, if limits name one
	Client string // an address
	User   string
	Key    string // that a program chose
}

// Explain returns the limits that govern a connection or a permit, and whether it would be let in
// now.
func (c *Client) Explain(ctx context.Context, q ExplainQuery) (Explanation, error) {
	v := values("host", q.Host, "client", q.Client, "user", q.User, "key", q.Key)
	return do[Explanation](ctx, c, call{method: "GET", path: PathExplain, query: v})
}

func (q HostQuery) values() url.Values {
	v := values("prefix", q.Prefix, "sort", q.Sort, "after", q.After)
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Local {
		v.Set("local", "true")
	}
	return v
}

// Host returns the use of one host.
func (c *Client) Host(ctx context.Context, host string) (Host, error) {
	return do[Host](ctx, c, call{method: "GET", path: PathHosts + "/" + url.PathEscape(host)})
}
