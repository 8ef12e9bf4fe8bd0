package server

import (
	"net/http"
	"time"

	"github.com/weirproxy/weir/api"
)

// StatusSource describes this node.
type StatusSource interface {
	// Status describes the node now.
	Status() api.Status
	// Ready reports whether the node can admit connections, and if not, why.
	Ready() (ok bool, why string)
}

func (s *Server) status(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	st := s.deps.Status.Status()
	st.Session.ExpiresIn = api.Duration(time.Duration(st.Session.ExpiresIn).Round(time.Millisecond))
	if st.ConfigDisagreements == nil {
		st.ConfigDisagreements = []string{}
	}
	if st.ProxyAddrs == nil {
		st.ProxyAddrs = []string{}
	}
	if st.ProxyProtocols == nil {
		st.ProxyProtocols = []string{}
	}
	if st.ResolvingClients == nil {
		st.ResolvingClients = []api.ResolvingClient{}
	}
	return answer{body: st}, nil
}

// healthz: the process answers.
func (s *Server) healthz(*http.Request) (answer, error) {
	return answer{body: api.Health{Status: "ok"}}, nil
}

// readyz: the node can admit; 503 with the reason when it can't.
func (s *Server) readyz(*http.Request) (answer, error) {
	if ok, why := s.deps.Status.Ready(); !ok {
		return answer{}, problemf(http.StatusServiceUnavailable, "not_ready", "not ready: %s", why)
	}
	return answer{body: api.Health{Status: "ok"}}, nil
}
