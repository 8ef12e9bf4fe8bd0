package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// Errors of the interfaces in [Deps]. Wrapping one adds text, which becomes the problem's detail.
var (
	// ErrNotLeader: this node does not lead, and nothing was written.
	ErrNotLeader = errors.New("this node is not the leader")
	// ErrNoLeader: nobody leads, and nothing was written.
	ErrNoLeader = errors.New("the cluster has no leader: a majority of its servers must be up and reach each other")
	// ErrOutcomeUnknown: the write may or may not have been committed.
	ErrOutcomeUnknown = errors.New("leadership or the connection to the leader was lost during the write: it may or may not have been applied; read it back before repeating it")
	// ErrDiskFull: the disk of the writing node is full, and nothing was written.
	ErrDiskFull = errors.New("the disk is full: make room on the leader's data directory")
	// ErrTooLarge: the write is too large for one log entry.
	ErrTooLarge = errors.New("the write is too large for one log entry: write less at a time")
	// ErrMixedVersions: not all servers understand the write yet, and nothing was written.
	ErrMixedVersions = errors.New("not all servers understand this write")
	// ErrNotFound: the named peer does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the cluster's present state does not allow it.
	ErrConflict = errors.New("conflict")
	// ErrNoRaft: the node is a proxy, without Raft state of its own.
	ErrNoRaft = errors.New("this node holds no Raft state")
	// ErrInvalidConfig: a reload found errors in the config, and nothing has changed.
	ErrInvalidConfig = errors.New("the configuration is invalid")
	// ErrPartlyReloaded: a reload has put the node's own settings in force, and then failed to write
	// the cluster's limits.
	ErrPartlyReloaded = errors.New("the node's own settings are applied; writing the cluster's limits failed")
	// ErrNotVisible: the write is committed, but did not reach this node in time.
	ErrNotVisible = errors.New("the write is committed, but this node has not seen it yet")
)

// problem is an error that a handler returns, with what its answer needs beside the body.
type problem struct {
	api.Problem

	allow        string // the Allow header of a 405
	authenticate string // the WWW-Authenticate header of a 401 or 403
	notLeader    bool   // the forwarding node must look for the leader again
}

// Unwrap returns the body: errors.As finds an [api.Problem], whichever node made it.
func (p *problem) Unwrap() error { return &p.Problem }

// problemf makes a problem that a handler returns as its error.
func problemf(status int, code, format string, args ...any) *problem {
	return &problem{Problem: api.Problem{
		Type: "about:blank", Title: http.StatusText(status),
		Status: status, Code: code, Detail: fmt.Sprintf(format, args...),
	}}
}

func malformed(format string, args ...any) *problem {
	return problemf(http.StatusBadRequest, "malformed", format, args...)
}

func invalid(format string, args ...any) *problem {
	return problemf(http.StatusUnprocessableEntity, "invalid", format, args...)
}

// errorRow maps one error to its answer.
type errorRow struct {
	err    error
	status int
	code   string
}

// errorTable is the one place that maps errors to statuses. The first matching row counts.
func errorTable() []errorRow {
	return []errorRow{
		{fsm.ErrPrecondition, http.StatusPreconditionFailed, "precondition_failed"},
		{fsm.ErrNotFound, http.StatusNotFound, "not_found"},
		{fsm.ErrNameTaken, http.StatusConflict, "name_taken"},
		{limit.ErrInvalid, http.StatusUnprocessableEntity, "invalid"},
		{limit.ErrHost, http.StatusUnprocessableEntity, "invalid"},
		{limit.ErrPort, http.StatusUnprocessableEntity, "invalid"},
		{ErrInvalidConfig, http.StatusUnprocessableEntity, "invalid_config"},
		{ErrNotFound, http.StatusNotFound, "not_found"},
		{ErrConflict, http.StatusConflict, "conflict"},
		{ErrTooLarge, http.StatusRequestEntityTooLarge, "too_large"},
		{ErrMixedVersions, http.StatusConflict, "mixed_versions"},
		{ErrDiskFull, http.StatusInsufficientStorage, "disk_full"},
		{ErrNoLeader, http.StatusServiceUnavailable, "no_leader"},
		{ErrNotLeader, http.StatusServiceUnavailable, "no_leader"},
		{ErrNoRaft, http.StatusServiceUnavailable, "no_raft"},
		{ErrOutcomeUnknown, http.StatusGatewayTimeout, "outcome_unknown"},
		{ErrNotVisible, http.StatusGatewayTimeout, "not_visible"},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, "timeout"},
		{context.Canceled, http.StatusServiceUnavailable, "canceled"},
	}
}

// problemOf turns any error into a problem. An error that is not in the table is a fault of the
// server. Its text stays out of the answer, because it may name files or addresses.
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var theirs *api.Problem // another node's
	if errors.As(err, &theirs) {
		return &problem{Problem: *theirs}
	}
	for _, row := range errorTable() {
		if errors.Is(err, row.err) {
			p := problemf(row.status, row.code, "%s", err)
			p.notLeader = row.err == ErrNotLeader
			return p
		}
	}
	return problemf(http.StatusInternalServerError, "internal", "the node failed to answer; its log says why")
}

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p *problem) {
	h := w.Header()
	h.Del("Etag")
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.authenticate != "" {
		h.Set("Www-Authenticate", p.authenticate)
	}
	if p.notLeader {
		h.Set(headerNotLeader, "true")
	}
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	h.Set("Content-Type", api.MediaProblem)
	w.WriteHeader(p.Status)
	// The types always encode, and a client that has gone is no error here.
	b, _ := json.Marshal(p.Problem)
	_, _ = w.Write(append(b, '\n'))
}
