package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// PeerSource finds the other nodes.
type PeerSource interface {
	// Peers lists every other node that has not left, dead ones too, since their missing numbers
	// must be reported.
	Peers() []Peer
}

// Peer is another node and a way to its peer handler.
type Peer struct {
	Name string
	Dead bool // as gossip has it
	RT   http.RoundTripper
}

const (
	fanWidth = 32                     // nodes that are asked at once
	deadWait = 300 * time.Millisecond // for a dead node, which gossip may have wrong
)

// usePath is where a node is asked for what counts in a scope. Nodes of versions that knew hosts
// alone answer for hosts.
func usePath(scope limit.Scope) string {
	if scope == limit.ScopeHost {
		return api.PathHosts
	}
	return api.PathUsage + "/" + scope.String()
}

// clusterUses adds the other nodes' use of a scope to this node's.
func (s *Server) clusterUses(ctx context.Context, l listing, own []api.Host) ([]api.Host, []api.Unreachable) {
	q := url.Values{"local": {"true"}, "prefix": {l.prefix}}
	if l.order == "" {
		// What is among the first of the union is among the first on each node. (One more tells
		// whether to go on.)
		q.Set("limit", strconv.Itoa(l.limit+1))
		if l.after.set {
			q.Set("after", l.after.host)
		}
	}
	u := &url.URL{Path: usePath(l.scope), RawQuery: q.Encode()}
	sum := newHostSum(own)
	if l.scope == limit.ScopeHost {
		missing := fanOut(s, ctx, u, func(h api.Hosts) { sum.add(h.Hosts) })
		return s.byLeadersLog(sum.hosts()), missing
	}
	missing := fanOut(s, ctx, u, func(all api.Usages) {
		for _, one := range all.Usage {
			sum.add([]api.Host{hostOf(one)})
		}
	})
	return s.byLeadersLog(sum.hosts()), missing
}

// clusterUse adds the other nodes' use of one name to this node's.
func (s *Server) clusterUse(ctx context.Context, scope limit.Scope, own api.Host) api.Host {
	sum := newHostSum([]api.Host{own})
	add := func(h api.Host) {
		h.Host = own.Host // a node that knows other limits may count it otherwise for a moment
		sum.add([]api.Host{h})
	}
	u := &url.URL{Path: usePath(scope) + "/" + own.Host, RawQuery: "local=true"}
	u.RawPath = usePath(scope) + "/" + url.PathEscape(own.Host)
	var missing []api.Unreachable
	switch {
	case scope == limit.ScopeHost:
		missing = fanOut(s, ctx, u, add)
	case scope.Bare(): // it has no names
		u = &url.URL{Path: usePath(scope), RawQuery: "local=true"}
		missing = fanOut(s, ctx, u, func(all api.Usages) {
			for _, one := range all.Usage {
				add(hostOf(one))
			}
		})
	default:
		missing = fanOut(s, ctx, u, func(one api.Usage) { add(hostOf(one)) })
	}
	h := s.byLeadersLog(sum.hosts())[0]
	h.Unreachable = missing
	return h
}

// fanOut asks every other node the same question. got is called for one answer at a time.
func fanOut[T any](s *Server, ctx context.Context, u *url.URL, got func(T)) []api.Unreachable {
	return fanOutEach(s, ctx, func(Peer) *url.URL { return u }, func(_ string, a T) { got(a) })
}

// fanOutEach asks every other node, each in its own goroutine, and waits for all or the timeout.
// got is called for one answer at a time.
func fanOutEach[T any](s *Server, ctx context.Context, question func(Peer) *url.URL, got func(node string, a T)) []api.Unreachable {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PeerTimeout)
	defer cancel()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		missing []api.Unreachable
		places  = make(chan struct{}, fanWidth)
	)
	for _, p := range s.deps.Peers.Peers() {
		u := question(p)
		wg.Go(func() {
			var a T
			var err error
			select {
			case places <- struct{}{}:
				ctx, cancel := ctx, context.CancelFunc(func() {})
				if p.Dead {
					ctx, cancel = context.WithTimeout(ctx, deadWait)
				}
				a, err = ask[T](s, ctx, p, u)
				cancel()
				<-places
			case <-ctx.Done():
				err = ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.log.Debug("a node did not answer", "node", p.Name, "path", u.Path, "error", err)
				missing = append(missing, api.Unreachable{Node: p.Name, Error: reason(err)})
				return
			}
			got(p.Name, a)
		})
	}
	wg.Wait()
	slices.SortFunc(missing, func(a, b api.Unreachable) int { return strings.Compare(a.Node, b.Node) })
	return missing
}

// ask asks one node one question.
func ask[T any](s *Server, ctx context.Context, p Peer, u *url.URL) (a T, err error) {
	rep, err := s.forward(ctx, p.RT, &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, nil)
	if err != nil {
		return a, err
	}
	if rep.status != http.StatusOK {
		return a, api.ParseProblem(rep.status, rep.header, rep.body)
	}
	if err := json.Unmarshal(rep.body, &a); err != nil {
		return a, fmt.Errorf("its answer is not understood: %w", err)
	}
	return a, nil
}

func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

// hostSum adds up the hosts of several nodes.
type hostSum map[string]*api.Host

func newHostSum(own []api.Host) hostSum {
	sum := make(hostSum, len(own))
	for _, h := range own {
		sum[h.Host] = &h
	}
	return sum
}

func (sum hostSum) add(hosts []api.Host) {
	for _, h := range hosts {
		have, ok := sum[h.Host]
		if !ok {
			sum[h.Host] = &h
			continue
		}
		addUse(&have.Use, h.Use)
		for node, use := range h.Nodes {
			have.Nodes[node] = use
		}
	}
}

func (sum hostSum) hosts() []api.Host {
	hosts := make([]api.Host, 0, len(sum))
	for _, h := range sum {
		hosts = append(hosts, *h)
	}
	return hosts
}
