package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

const (
	pathRestoredLimits = "/v1/restored-limits" // between nodes only

	// maxRestored bounds the log entry that a restore becomes, in bytes: some 300,000 limits.
	maxRestored = 15 << 20
	// snapshotPatience is how long either side of a transfer may make no progress.
	snapshotPatience = 30 * time.Second
	// restoreTimeout bounds a restore after its snapshot has arrived. An entry of this size takes
	// longer than others.
	restoreTimeout = 30 * time.Second
)

// Snapshots provides the replicated state.
type Snapshots interface {
	// Freeze returns this node's present state; ErrNoRaft on a proxy.
	Freeze() (*fsm.Frozen, error)
}

// snapshotEndpoints serve snapshots. Between nodes a restore goes through restored-limits, so that
// a whole snapshot crosses the network once.
func (s *Server) snapshotEndpoints(peer bool) map[string]endpoint {
	e := map[string]endpoint{"GET": s.saveSnapshot(peer)}
	if !peer {
		e["PUT"] = s.restoreSnapshot
	}
	return e
}

// saveSnapshot answers GET /v1/snapshot with the leader's state or, while nobody leads, with that
// of a reachable server.
func (s *Server) saveSnapshot(peer bool) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := query(r); err != nil {
			return err
		}
		if peer {
			return s.sendSnapshot(w)
		}
		if _, rt, self, ok := s.deps.Leader.Leader(); ok && !self {
			if relayed, err := s.relaySnapshot(w, r, rt); relayed {
				return err
			}
		}
		err := s.sendSnapshot(w)
		if !errors.Is(err, ErrNoRaft) {
			return err
		}
		for _, p := range s.servers() {
			if relayed, err := s.relaySnapshot(w, r, p.RT); relayed {
				return err
			}
		}
		return problemf(http.StatusServiceUnavailable, "no_leader", "this node holds no Raft state, and no server can be asked: call a server")
	}
}

// servers returns the other live nodes that hold Raft state.
func (s *Server) servers() []Peer {
	held := make(map[string]bool)
	for _, n := range s.deps.Nodes.Nodes() {
		held[n.Name] = n.Role == "server" && (n.Health == "alive" || n.Health == "suspect")
	}
	return slices.DeleteFunc(s.deps.Peers.Peers(), func(p Peer) bool { return !held[p.Name] })
}

// sendSnapshot writes this node's own state.
func (s *Server) sendSnapshot(w http.ResponseWriter) error {
	frozen, err := s.deps.Snapshots.Freeze()
	if err != nil {
		return err
	}
	snapshotHeaders(w.Header(), strconv.FormatUint(frozen.Index(), 10))
	if err := frozen.WriteSnapshot(patientWriter{w, http.NewResponseController(w)}); err != nil {
		s.log.Debug("a snapshot was not sent to its end", "error", err)
		panic(http.ErrAbortHandler) // the status is sent: only a broken connection shows that the body is incomplete
	}
	s.log.Info("snapshot sent", "index", frozen.Index())
	return nil
}

func snapshotHeaders(h http.Header, index string) {
	h.Set("Content-Type", api.MediaSnapshot)
	h.Set("Content-Disposition", `attachment; filename="weir.snap"`)
	h.Set(api.HeaderIndex, index)
}

// relaySnapshot streams another node's snapshot. It returns false if nothing came, so that another
// node may be tried.
func (s *Server) relaySnapshot(w http.ResponseWriter, r *http.Request, rt http.RoundTripper) (bool, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://peer"+api.PathSnapshot, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set(headerForwarded, s.cfg.Node)
	timer := time.AfterFunc(s.cfg.PeerTimeout, cancel)
	defer timer.Stop()
	res, err := rt.RoundTrip(req)
	if err != nil {
		s.log.Debug("no snapshot from another node", "error", err)
		return false, nil
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return false, nil
	}
	snapshotHeaders(w.Header(), res.Header.Get(api.HeaderIndex))
	from := progress{res.Body, func() { timer.Reset(snapshotPatience) }}
	if _, err := io.Copy(patientWriter{w, http.NewResponseController(w)}, from); err != nil {
		s.log.Debug("a snapshot was not passed on to its end", "error", err)
		panic(http.ErrAbortHandler)
	}
	return true, nil
}

// restoreSnapshot answers PUT /v1/snapshot: one log entry replaces the limits of both layers by the
// snapshot's. Sessions, grants and settings stay as they are.
func (s *Server) restoreSnapshot(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if r.ContentLength > api.MaxSnapshot {
		return snapshotTooLarge()
	}
	rc := http.NewResponseController(w)
	body := http.MaxBytesReader(w, r.Body, api.MaxSnapshot)
	summary, err := fsm.ReadSummary(progress{body, func() { _ = rc.SetReadDeadline(time.Now().Add(snapshotPatience)) }})
	if err != nil {
		return snapshotProblem(err)
	}
	bodyRead(w)
	_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout)) // a recorder in a test has none
	entry := fsm.Encode(restoring(summary.Limits))
	if len(entry) > maxRestored {
		return problemf(http.StatusRequestEntityTooLarge, "too_many_limits",
			"the snapshot's %d limits make a log entry of %d bytes, and the most is %d", len(summary.Limits), len(entry), maxRestored)
	}
	ctx, cancel := context.WithTimeout(s.withAuthor(r.Context(), r, false), restoreTimeout)
	defer cancel()
	internal := (&http.Request{
		Method: http.MethodPut, URL: &url.URL{Path: pathRestoredLimits}, Header: http.Header{"Content-Type": {api.MediaSnapshot}},
	}).WithContext(ctx)
	commit, err := s.restoreLimits(internal, entry)
	if err != nil {
		return err
	}
	rep, err := s.deliver(ctx, internal, entry, commit)
	if err != nil {
		return err
	}
	if rep.status == http.StatusNotFound {
		return fmt.Errorf("%w: the leader is of a version that can't restore: upgrade it", ErrMixedVersions)
	}
	rep.header.Del(headerTable)
	rep.write(w)
	return nil
}

// restoring returns the command for a snapshot's limits, without their evictions: those were done
// when the limits were first set.
func restoring(limits []limit.Limit) *fsm.RestoreLimits {
	limits = slices.Clone(limits)
	for i := range limits {
		limits[i].Evict, limits[i].ModifyIndex = false, 0
	}
	return &fsm.RestoreLimits{Limits: limits}
}

func snapshotTooLarge() error {
	return problemf(http.StatusRequestEntityTooLarge, "body_too_large", "the snapshot is longer than %d bytes", api.MaxSnapshot)
}

// snapshotProblem says what is wrong with a snapshot.
func snapshotProblem(err error) error {
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return snapshotTooLarge()
	case errors.Is(err, fsm.ErrDamaged):
		return problemf(http.StatusBadRequest, "snapshot_damaged", "%s", err)
	case errors.Is(err, fsm.ErrNewer):
		return problemf(http.StatusUnprocessableEntity, "snapshot_newer", "a newer weir has made the snapshot: upgrade this node before it restores it (%s)", err)
	case errors.Is(err, fsm.ErrTooMany):
		return problemf(http.StatusRequestEntityTooLarge, "too_many_limits", "%s", err)
	case errors.Is(err, limit.ErrInvalid):
		return err
	}
	return malformed("the snapshot could not be read to its end: %v", err)
}

// restoreLimits parses a write of restoreSnapshot, on the leader: the entry itself.
func (s *Server) restoreLimits(_ *http.Request, entry []byte) (commit, error) {
	c, err := fsm.Decode(entry)
	if errors.Is(err, fsm.ErrNewer) {
		return nil, fmt.Errorf("%w: %s, which leads, knows log version %d: upgrade it", ErrMixedVersions, s.cfg.Node, fsm.LogVersion)
	}
	if err != nil {
		return nil, malformed("%s", err)
	}
	cmd, ok := c.(*fsm.RestoreLimits)
	if !ok {
		return nil, malformed("the entry is a %T", c)
	}
	return func(ctx context.Context) (answer, error) { return s.commitRestore(ctx, *cmd) }, nil
}

func (s *Server) commitRestore(ctx context.Context, cmd fsm.RestoreLimits) (answer, error) {
	before := s.deps.Log.Committed()
	effective := fsm.Effective(cmd.Limits)
	if known, ok := repeated(ctx); ok {
		var err error
		if cmd.Precondition, err = repeatLimits(before, effective, known); err != nil {
			return answer{}, err
		}
	}
	index, res, err := s.propose(ctx, &cmd)
	if err != nil {
		return answer{}, err
	}
	var changes []api.Change
	if res.Changed { // else others have written the same since before, and the changes are theirs
		changes = difference(before, effective)
	}
	s.noteLimits(ctx, limit.SourceAPI, index, changes)
	body := api.SnapshotRestored{Index: index, Limits: len(cmd.Limits)}
	for _, c := range changes {
		switch c.Action {
		case "add":
			body.Added++
		case "change":
			body.Changed++
		case "remove":
			body.Removed++
		}
	}
	s.note(ctx, "limits restored from a snapshot", "limits", body.Limits, "added", body.Added, "changed", body.Changed,
		"removed", body.Removed, "index", index)
	return answer{body: body, index: index, table: visibleAt(index, res, s.deps.Log.Committed())}, nil
}

// patientWriter gives each piece its own write deadline.
type patientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (p patientWriter) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(snapshotPatience)) // a recorder in a test has none
	return p.w.Write(b)
}

// progress calls moved before each read, which then has its full time.
type progress struct {
	r     io.Reader
	moved func()
}

func (p progress) Read(b []byte) (int, error) {
	p.moved()
	return p.r.Read(b)
}
