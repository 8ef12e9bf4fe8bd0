package server

import (
	"net/http"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// hosts answers GET /v1/hosts.
func (s *Server) hosts(r *http.Request, peer bool) (answer, error) {
	var body api.Hosts
	var err error
	body.Hosts, body.Next, body.Unreachable, err = s.uses(r, limit.ScopeHost, peer)
	return answer{body: body}, err
}

// host answers GET /v1/hosts/{host}[?local=true]. An unused host is shown with the limit that would
// apply.
func (s *Server) host(r *http.Request, peer bool) (answer, error) {
	h, err := s.use(r, limit.ScopeHost, r.PathValue("host"), peer)
	return answer{body: h}, err
}
