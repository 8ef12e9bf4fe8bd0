package weir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
)

// Errors of the methods of [Limits], which also wrap an [*api.Error] if the API refused. Others are
// the context's and, after [Node.Close], [ErrClosed].
var (
	// ErrNoLimit: there is no limit with exactly this scope and pattern.
	ErrNoLimit = errors.New("no such limit")
	// ErrInvalid: the limit can't be. Nothing was written.
	ErrInvalid = errors.New("invalid limit")
	// ErrNoLeader: the cluster has no leader that could be reached. Nothing was written.
	ErrNoLeader = errors.New("the cluster has no leader")
	// ErrUnknownOutcome: the write may have been applied, or not yet be visible on this node. Read
	// the limit before repeating the write.
	ErrUnknownOutcome = errors.New("the outcome of the write is unknown")
	// ErrChanged: the limit is not what [IfIndex] or [IfAbsent] asked for. Nothing was written.
	ErrChanged = errors.New("the limit has changed meanwhile")
)

// WriteOption changes how a limit is written: see [Evict], [IfIndex] and [IfAbsent].
type WriteOption = api.WriteOption

// Evict also closes connections above a lowered limit, the newest on each node first.
// [Limits.Remove] lowers nothing, and refuses it with [ErrInvalid].
func Evict() WriteOption { return api.Evict() }

// IfIndex writes only if the limit was last changed at this index, its ModifyIndex. For
// [Limits.Replace] it is the index of all limits, which GET /v1/limits answers.
func IfIndex(index uint64) WriteOption { return api.IfIndex(index) }

// IfAbsent writes only if there is no such limit.
func IfAbsent() WriteOption { return api.IfAbsent() }

// Limits are the limits that a node goes by, of its whole cluster. A write goes to the leader; when
// it returns, it is committed, and this node goes by it. A limit that is written wins over one of
// the same scope and pattern in the nodes' configs, until it is removed.
type Limits struct {
	node   *Node
	client *api.Client
}

// Limits returns the node's limits.
func (n *Node) Limits() *Limits {
	client, err := api.NewClient("http://localhost", "", inProcess{n})
	if err != nil {
		panic(err) // the address is a constant
	}
	return &Limits{node: n, client: client}
}

// List returns all limits, sorted by scope and pattern, as this node knows them.
func (l *Limits) List() []Limit {
	table := view{l.node}.Table()
	var all []Limit
	for _, one := range table.Limits() {
		all = append(all, api.LimitOf(&one))
	}
	return all
}

// Get returns the limit with exactly this scope ("" is host) and pattern. Without one, the error is
// [ErrNoLimit].
func (l *Limits) Get(ctx context.Context, scope, pattern string) (Limit, error) {
	var one Limit
	if err := possible(Limit{Scope: scope, Pattern: pattern}); err != nil {
		return one, err
	}
	err := l.call(func() (err error) { one, err = l.client.Limit(ctx, scope, pattern); return err })
	return one, err
}

// Set writes one limit, as a whole: what it leaves out is not capped.
func (l *Limits) Set(ctx context.Context, one Limit, opts ...WriteOption) error {
	if err := possible(one); err != nil {
		return err
	}
	return l.call(func() error { _, err := l.client.PutLimit(ctx, one, opts...); return err })
}

// Default sets the limit "*", as a whole, to a number of open connections: it holds for each host
// that no other pattern matches. 0 blocks those hosts.
func (l *Limits) Default(ctx context.Context, connections int64, opts ...WriteOption) error {
	return l.Set(ctx, HostLimit("*", connections), opts...)
}

// Replace makes these all the limits of the cluster. What they leave out is gone; a limit of the
// nodes' configs, until a config is reloaded.
func (l *Limits) Replace(ctx context.Context, all []Limit, opts ...WriteOption) error {
	return l.call(func() error { _, err := l.client.ReplaceLimits(ctx, all, opts...); return err })
}

// Remove deletes the limit with exactly this scope ("" is host) and pattern. A limit of the nodes'
// configs that it has covered is in force again; one of the configs that nothing covers is gone
// until a config is reloaded. Without a limit, the error is [ErrNoLimit].
func (l *Limits) Remove(ctx context.Context, scope, pattern string, opts ...WriteOption) error {
	if err := possible(Limit{Scope: scope, Pattern: pattern}); err != nil {
		return err
	}
	return l.call(func() error { _, err := l.client.DeleteLimit(ctx, scope, pattern, opts...); return err })
}

// possible refuses a limit that can't be, before its scope and pattern become the path of a call.
func possible(l Limit) error {
	if _, err := server.ParseLimit(l); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// call makes a call of the API, unless the node is closed: what it still knows can change no more,
// and a write would wait in vain to become visible on it.
func (l *Limits) call(f func() error) error {
	if l.node.life.Err() != nil {
		return ErrClosed
	}
	return l.node.limitsError(f())
}

// limitsError adds the package's error to one of the API.
func (n *Node) limitsError(err error) error {
	var refused *api.Error
	if err == nil || !errors.As(err, &refused) {
		return err
	}
	if n.isStopping() {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	for code, kind := range map[string]error{
		"not_found": ErrNoLimit, "invalid": ErrInvalid, "malformed": ErrInvalid, "no_leader": ErrNoLeader,
		"precondition_failed": ErrChanged,
		"outcome_unknown":     ErrUnknownOutcome, "not_visible": ErrUnknownOutcome, "timeout": ErrUnknownOutcome,
	} {
		if refused.Code == code {
			return &limitRefusal{kind, err}
		}
	}
	return err
}

// limitRefusal is an error of the API, of a kind that errors.Is finds.
type limitRefusal struct{ kind, api error }

// Error is the API's text, which often begins with the kind's words already.
func (r *limitRefusal) Error() string {
	if text := r.api.Error(); strings.HasPrefix(text, r.kind.Error()) {
		return text
	}
	return r.kind.Error() + ": " + r.api.Error()
}

// Unwrap returns both errors.
func (r *limitRefusal) Unwrap() []error { return []error{r.kind, r.api} }

// inProcess carries requests to a node's API without a connection.
type inProcess struct{ node *Node }

// RoundTrip implements [http.RoundTripper].
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Context().Err() != nil {
		return nil, whyEnded(r.Context())
	}
	r = r.Clone(r.Context())
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer func() { _ = r.Body.Close() }()
	r.RemoteAddr = "in process"
	answer := &answer{header: http.Header{}, status: http.StatusOK}
	t.node.api.InProcess().ServeHTTP(answer, r)
	if r.Context().Err() != nil {
		return nil, whyEnded(r.Context())
	}
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: r,
	}, nil
}

// answer is an [http.ResponseWriter] that keeps what is written.
type answer struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if !a.wrote && status >= http.StatusOK { // others are interim answers
		a.status, a.wrote = status, true
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}
