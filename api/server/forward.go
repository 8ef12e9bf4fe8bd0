package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// Log commits commands to the replicated log.
type Log interface {
	// Propose commits c and returns its log index and the result of applying it. It works on the
	// leader alone. Errors: ErrNotLeader and ErrDiskFull if nothing was written; ErrOutcomeUnknown
	// otherwise, even if ctx ended before the result was there.
	Propose(ctx context.Context, c fsm.Command) (index uint64, r fsm.Result, err error)
	// Committed returns the limits in the log: on the leader, with every write that Propose has
	// answered. It may be ahead of View's.
	Committed() *limit.Table
	// ConfigLimits returns the config's limits in the log, sorted by pattern, once it is certain
	// that this node leads and has applied everything committed before the call. Otherwise ok is
	// false.
	ConfigLimits(ctx context.Context) (limits []limit.Limit, ok bool)
}

// Leader finds the leader.
type Leader interface {
	// Leader returns the leader's name and a RoundTripper to its peer handler, which ignores the
	// host of a URL. self, with no RoundTripper, means that this node leads; ok is false if no
	// leader is known. A request that was never sent is repeated if the RoundTripper shows that: by
	// calling the hooks of httptrace, as [http.Transport] does, or by failing with a *net.OpError
	// of Op "dial".
	Leader() (name string, rt http.RoundTripper, self, ok bool)
}

// View is this node's knowledge of the limits.
type View interface {
	// Table returns the limits; its Index is the write up to which the node has them.
	Table() *limit.Table
	// WaitTable waits until Table().Index has reached index, or ctx has ended.
	WaitTable(ctx context.Context, index uint64) error
}

// understand parses a write before it goes anywhere, so that any node reports its errors at once.
type understand func(r *http.Request, body []byte) (commit, error)

// commit executes a write, on the leader.
type commit func(ctx context.Context) (answer, error)

const (
	retryFirst = 25 * time.Millisecond // between two attempts to reach the leader, doubled each time
	retryMost  = 250 * time.Millisecond
)

// writing serves an action that only the leader can do. A peer's request is never forwarded again.
func (s *Server) writing(u understand, peer bool, most int64) endpoint {
	return s.writingWithin(s.cfg.WriteTimeout, u, peer, most)
}

// writingWithin is writing with a timeout of its own.
func (s *Server) writingWithin(within time.Duration, u understand, peer bool, most int64) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		body, err := readBody(w, r, most)
		if err != nil {
			return err
		}
		within := within
		if len(body) > maxBody {
			within = max(within, restoreTimeout) // an entry of this size takes longer than others
		}
		c, err := u(r, body)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(s.withAuthor(r.Context(), r, peer), within)
		defer cancel()
		var rep reply
		if peer {
			rep, err = s.asLeader(repeatOf(ctx, r), r, c)
		} else {
			rep, err = s.deliver(ctx, r, body, c)
		}
		if err != nil {
			return err
		}
		if !peer {
			rep.header.Del(headerTable)
		}
		rep.write(w)
		return nil
	}
}

// asLeader serves a request that another node forwarded here because it considers this one the
// leader.
func (s *Server) asLeader(ctx context.Context, r *http.Request, c commit) (reply, error) {
	if _, _, self, _ := s.deps.Leader.Leader(); !self {
		return reply{}, ErrNotLeader
	}
	end, err := s.attempts.begin(ctx, r)
	if err != nil {
		return reply{}, err
	}
	defer end()
	rep, err := s.commitHere(ctx, c)
	if err == nil {
		s.log.Info("write for another node", "from", r.Header.Get(headerForwarded), "method", r.Method, "path", r.URL.Path)
	}
	return rep, err
}

// deliver has the leader execute a write, and waits until this node sees it. While nobody leads, or
// the leader has stopped, it retries until ctx ends. After an unknown outcome it retries only a
// write that may safely be repeated: a PUT without a condition, unless somebody else has written
// meanwhile (see retry.go).
func (s *Server) deliver(ctx context.Context, r *http.Request, body []byte, c commit) (reply, error) {
	repeatable := r.Method == http.MethodPut && r.Header.Get("If-Match") == "" && r.Header.Get("If-None-Match") == ""
	unknown := false
	each := s.cfg.WriteTimeout
	if deadline, ok := ctx.Deadline(); ok {
		each = time.Until(deadline)
	}
	if repeatable {
		ctx = withWrite(ctx)
		each /= 2 // a frozen leader must leave time to ask its successor
	}
	known := s.deps.View.Table().Index
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		if unknown {
			ctx = withRepeat(ctx, known)
		}
		once, cancel := context.WithTimeout(ctx, each)
		rep, err := s.attempt(once, r, body, c)
		cancel()
		switch {
		case err == nil:
			return rep, s.visible(ctx, rep)
		case errors.Is(err, ErrNotLeader), errors.Is(err, ErrNoLeader):
			err = ErrNoLeader
		case errors.Is(err, ErrOutcomeUnknown) && repeatable:
			unknown = true
		default:
			return reply{}, err
		}
		if unknown {
			err = ErrOutcomeUnknown
		}
		if !sleep(ctx, wait) {
			return reply{}, err
		}
	}
}

// attempt tries once, here or at the leader.
func (s *Server) attempt(ctx context.Context, r *http.Request, body []byte, c commit) (reply, error) {
	name, rt, self, ok := s.deps.Leader.Leader()
	switch {
	case !ok:
		return reply{}, ErrNoLeader
	case self:
		return s.commitHere(ctx, c)
	}
	rep, err := s.forward(ctx, rt, r, body)
	switch {
	case errors.Is(err, errNotSent):
		s.log.Debug("the leader can't be reached", "leader", name, "error", err)
		return reply{}, ErrNoLeader
	case err != nil:
		return reply{}, fmt.Errorf("%w (leader %s)", ErrOutcomeUnknown, name)
	case rep.header.Get(headerNotLeader) != "":
		return reply{}, ErrNotLeader
	}
	return rep, nil
}

// commitHere executes a write on this node. If its wait ends early, the outcome is unknown.
func (s *Server) commitHere(ctx context.Context, c commit) (reply, error) {
	a, err := c(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return reply{}, ErrOutcomeUnknown
	}
	if err != nil {
		return reply{}, err
	}
	return a.reply()
}

// visible waits until this node's own view includes a successful write.
func (s *Server) visible(ctx context.Context, rep reply) error {
	index, err := strconv.ParseUint(rep.header.Get(headerTable), 10, 64)
	if rep.status >= 300 || err != nil {
		return nil
	}
	if err := s.deps.View.WaitTable(ctx, index); err != nil {
		p := problemOf(ErrNotVisible)
		p.Index, _ = strconv.ParseUint(rep.header.Get(api.HeaderIndex), 10, 64)
		return p
	}
	return nil
}

// errNotSent says that not a byte of the request has reached the other node.
var errNotSent = errors.New("the node can't be connected to")

// forward sends a request to another node's peer handler and reads its whole answer.
func (s *Server) forward(ctx context.Context, rt http.RoundTripper, r *http.Request, body []byte) (reply, error) {
	u := *r.URL
	u.Scheme, u.Host, u.User = "http", "peer", nil
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.URL = &u // as it came: its escapes distinguish patterns
	for _, name := range []string{"Content-Type", "If-Match", "If-None-Match"} {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	req.Header.Set(headerForwarded, s.cfg.Node)
	passOn(s.authorOf(ctx), req.Header)
	if name := writeName(ctx); name != "" {
		req.Header.Set(headerWrite, name)
	}
	if known, ok := repeated(ctx); ok {
		req.Header.Set(headerRepeat, strconv.FormatUint(known, 10))
	}
	res, err := roundTrip(rt, req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxPeerAnswer+1))
	if err != nil {
		return reply{}, err
	}
	if len(b) > maxPeerAnswer {
		return reply{}, fmt.Errorf("the answer is longer than %d bytes", maxPeerAnswer)
	}
	h := make(http.Header)
	for _, name := range []string{"Content-Type", "Etag", "Retry-After", api.HeaderIndex, headerTable, headerNotLeader} {
		if v := res.Header.Values(name); len(v) > 0 {
			h[name] = v
		}
	}
	return reply{status: res.StatusCode, header: h, body: b}, nil
}

// roundTrip distinguishes a request that was never sent, which is always safe to repeat, from one
// that may have arrived. A transport with httptrace proves the former by asking for a connection
// and getting none; any other transport by a dial error.
func roundTrip(rt http.RoundTripper, r *http.Request) (*http.Response, error) {
	var asked, got atomic.Bool
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	})
	res, err := rt.RoundTrip(r.WithContext(ctx))
	if err == nil {
		return res, nil
	}
	var op *net.OpError
	if asked.Load() && !got.Load() || errors.As(err, &op) && op.Op == "dial" {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return nil, err
}

// errAskLeader makes asking forward to the leader.
var errAskLeader = errors.New("the leader knows")

// asking serves a read that the leader answers better. f returns errAskLeader if this node would
// rather ask. If the leader can't be asked, this node answers from its own knowledge.
func (s *Server) asking(f func(r *http.Request, own bool) (answer, error), peer bool) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		a, err := f(r, peer)
		if errors.Is(err, errAskLeader) {
			if rep, ok := s.askLeader(r); ok {
				rep.write(w)
				return nil
			}
			a, err = f(r, true)
		}
		if err != nil {
			return err
		}
		rep, err := a.reply()
		if err != nil {
			return err
		}
		rep.write(w)
		return nil
	}
}

// askLeader forwards a read to the leader. It returns false if there is no leader to ask, or no
// good answer in time.
func (s *Server) askLeader(r *http.Request) (reply, bool) {
	_, rt, self, ok := s.deps.Leader.Leader()
	if !ok || self {
		return reply{}, false
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.PeerTimeout)
	defer cancel()
	rep, err := s.forward(ctx, rt, r, nil)
	if err != nil || rep.status != http.StatusOK {
		s.log.Debug("the leader did not answer a read", "path", r.URL.Path, "status", rep.status, "error", err)
		return reply{}, false
	}
	return rep, true
}

// sleep waits, and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
