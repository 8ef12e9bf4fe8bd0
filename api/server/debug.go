package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/weirproxy/weir/api"
)

const (
	logLines    = 200  // the default of GET /v1/logs
	maxLogLines = 1000 // that a node remembers
)

// Diagnostics provides a node's part of a support bundle, beyond the other endpoints.
type Diagnostics interface {
	// Settings lists the running configuration, without secrets.
	Settings() []api.Setting
	// RecentLog returns the newest lines of the node's log, at most n, oldest first.
	RecentLog(n int) []string
	// System describes the process and its machine.
	System() api.System
}

// debugRoutes describe this node, or the node in ?node=. They need full access, because logs name
// clients, and a profile slows the node down.
func (s *Server) debugRoutes(peer bool) router {
	own := func(f func(*http.Request) (answer, error)) map[string]endpoint {
		return map[string]endpoint{"GET": s.confidential(peer, s.atNode(peer, reading(f)))}
	}
	return router{
		{api.PathConfig, own(s.settings)},
		{api.PathLogs, own(s.recentLog)},
		{api.PathSystem, own(s.system)},
		{pathProfiles, map[string]endpoint{"GET": s.confidential(peer, s.profiles)}},
		{pathProfiles + "{name}", map[string]endpoint{"GET": s.confidential(peer, s.atNode(peer, s.profile))}},
	}
}

func (s *Server) settings(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	return answer{body: api.NodeConfig{Node: s.cfg.Node, Settings: append([]api.Setting{}, s.deps.Diagnostics.Settings()...)}}, nil
}

// recentLog answers GET /v1/logs[?lines=].
func (s *Server) recentLog(r *http.Request) (answer, error) {
	q, err := query(r, "lines")
	if err != nil {
		return answer{}, err
	}
	n, err := queryNumber(q, "lines", logLines, 1, maxLogLines)
	if err != nil {
		return answer{}, err
	}
	return answer{body: api.Logs{Node: s.cfg.Node, Lines: append([]string{}, s.deps.Diagnostics.RecentLog(n)...)}}, nil
}

func (s *Server) system(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	return answer{body: s.deps.Diagnostics.System()}, nil
}

// confidential restricts an endpoint to callers with full access: those with the token for it or,
// if no token is set and the node listens on loopback only, processes on this machine. A page in a
// browser is refused then.
func (s *Server) confidential(peer bool, serve endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		known := s.guard.tokens.Load()
		switch {
		case peer:
		case known.write == nil && (known.read != nil || !fromLoopback(r)):
			return problemf(http.StatusForbidden, "token_not_configured", "this is only for who has a token, and this node knows none: set api.token_file")
		case known.write == nil && r.Header.Get("Sec-Fetch-Site") != "":
			return problemf(http.StatusForbidden, "token_not_configured", "without a token this is not for browsers: set api.token_file")
		case known.write != nil && !s.guard.mayWrite(r):
			return problemf(http.StatusForbidden, "read_only_token", "this token can only read: use the one in api.token_file")
		}
		return serve(w, r)
	}
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// atNode passes a request with ?node= on to that node.
func (s *Server) atNode(peer bool, serve endpoint) endpoint {
	if peer {
		return serve
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := parseQuery(r)
		if err != nil {
			return err
		}
		if !q.Has("node") {
			return serve(w, r)
		}
		node := q.Get("node")
		q.Del("node")
		u := *r.URL
		u.RawQuery = q.Encode()
		if node == s.cfg.Node {
			r.URL = &u
			return serve(w, r)
		}
		p, err := s.peerNamed(node)
		if err != nil {
			return err
		}
		seconds, _ := strconv.Atoi(q.Get("seconds")) // the node refuses a wrong value
		most := s.cfg.PeerTimeout + time.Duration(min(max(seconds, 0), maxProfileSeconds))*time.Second
		ctx, cancel := context.WithTimeout(r.Context(), most)
		defer cancel()
		rep, err := s.forward(ctx, p.RT, &http.Request{Method: http.MethodGet, URL: &u, Header: http.Header{}}, nil)
		if err != nil {
			return notReached(node, err)
		}
		rep.write(w)
		return nil
	}
}
