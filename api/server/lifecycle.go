package server

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/weirproxy/weir/api"
)

// Lifecycle acts on the node as a whole. Drain and Leave return once they have begun, and do
// nothing if they had begun before.
type Lifecycle interface {
	// Drain makes the node refuse new work and lets its connections end.
	Drain(ctx context.Context) error
	// Undrain makes a draining node accept new work again. On other nodes it does nothing, except
	// on one that leaves or stops: there it fails with ErrConflict.
	Undrain(ctx context.Context) error
	// Leave drains the node, removes it from the cluster for good, and ends the process. It fails
	// with ErrConflict if that would cost the quorum, and on a node that stops already and no longer
	// drains.
	Leave(ctx context.Context) error
	// Reload reads the config again. A config with errors changes nothing: Reload fails with
	// ErrInvalidConfig and the errors' positions. With ErrPartlyReloaded, Reloaded names what is
	// applied all the same.
	Reload(ctx context.Context) (api.Reloaded, error)
}

func (s *Server) drain(r *http.Request) (answer, error) {
	return s.start(r, "draining", http.StatusAccepted, s.deps.Lifecycle.Drain)
}

// undrain answers DELETE /v1/drain, even if the node does not drain.
func (s *Server) undrain(r *http.Request) (answer, error) {
	return s.start(r, "draining ended", http.StatusOK, s.deps.Lifecycle.Undrain)
}

func (s *Server) leave(r *http.Request) (answer, error) {
	return s.start(r, "leaving", http.StatusAccepted, s.deps.Lifecycle.Leave)
}

func (s *Server) start(r *http.Request, what string, status int, begin func(context.Context) error) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	ctx := s.withAuthor(r.Context(), r, false)
	if err := begin(ctx); err != nil {
		s.note(ctx, what+" refused", "error", err)
		return answer{}, err
	}
	s.note(ctx, what)
	st := s.deps.Status.Status()
	return answer{status: status, body: api.Started{
		Node: s.cfg.Node, Draining: st.Draining, Leaving: st.Leaving, Connections: st.Connections,
	}}, nil
}

func (s *Server) reload(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	ctx := s.withAuthor(r.Context(), r, false)
	done, err := s.deps.Lifecycle.Reload(ctx)
	done.Applied = append([]string{}, done.Applied...)
	done.NeedRestart = append([]string{}, done.NeedRestart...)
	switch {
	case errors.Is(err, ErrPartlyReloaded):
		s.note(ctx, "configuration reloaded, but not its limits", "applied", done.Applied, "need_restart", done.NeedRestart, "error", err)
		return answer{}, partlyReloaded(err)
	case err != nil:
		s.note(ctx, "configuration not reloaded", "error", err)
		return answer{}, err
	}
	s.note(ctx, "configuration reloaded", "applied", done.Applied, "need_restart", done.NeedRestart)
	return answer{body: done}, nil
}

// partlyReloaded is the problem with the limits, which may be another node's answer. It says as well
// that there is more to it.
func partlyReloaded(err error) error {
	p := *problemOf(err)
	if what := ErrPartlyReloaded.Error(); !strings.HasPrefix(p.Detail, what) {
		p.Detail = what + ": " + p.Detail
	}
	return &p
}
