package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

func (s *Server) limits(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	t := s.deps.View.Table()
	body := api.Limits{Index: t.Index, Limits: []api.Limit{}}
	for _, l := range t.Limits() {
		body.Limits = append(body.Limits, api.LimitOf(&l))
	}
	return answer{body: body, etag: api.ETag(t.Index)}, nil
}

func (s *Server) limit(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	p, err := pattern(r)
	if err != nil {
		return answer{}, err
	}
	l, ok := s.deps.View.Table().Get(p)
	if !ok {
		return answer{}, noSuchLimit(p)
	}
	return answer{body: api.LimitOf(l), etag: api.ETag(l.ModifyIndex)}, nil
}

// noSuchLimit is the error of a pattern without a limit of its own.
func noSuchLimit(p limit.Pattern) error {
	return fmt.Errorf("%w for exactly %s: GET %s lists those there are", fsm.ErrNotFound, p.Name(), api.PathLimits)
}

// pattern is the path's pattern, of the path's scope.
func pattern(r *http.Request) (limit.Pattern, error) {
	scope, err := scopeOf(r)
	if err != nil {
		return limit.Pattern{}, err
	}
	p, err := scope.ParsePattern(r.PathValue("pattern"))
	if err != nil {
		return p, invalid("%s", err)
	}
	return p, nil
}

// scopeOf is the path's scope. A scope without patterns is the whole rest of its route.
func scopeOf(r *http.Request) (limit.Scope, error) {
	word := r.PathValue("scope")
	if word == "" {
		word = strings.TrimPrefix(r.URL.Path, api.PathLimits+"/")
	}
	return limit.ParseScope(word)
}

// putLimit parses PUT /v1/limits/{scope}/{pattern}[?evict=true].
func (s *Server) putLimit(r *http.Request, body []byte) (commit, error) {
	q, err := query(r, "evict")
	if err != nil {
		return nil, err
	}
	evict, err := queryBool(q, "evict")
	if err != nil {
		return nil, err
	}
	cond, err := parseCondition(r)
	if err != nil {
		return nil, err
	}
	p, err := pattern(r)
	if err != nil {
		return nil, err
	}
	o, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	l, err := parseLimit(o, &p)
	if err != nil {
		return nil, err
	}
	l.Source, l.Evict = limit.SourceAPI, evict
	return func(ctx context.Context) (answer, error) { return s.commitPut(ctx, l, cond) }, nil
}

func (s *Server) commitPut(ctx context.Context, l limit.Limit, cond condition) (answer, error) {
	before := s.deps.Log.Committed()
	pre := cond.forLimit(before, l.Pattern)
	if known, ok := repeated(ctx); ok {
		var err error
		if pre, err = repeatLimit(before, &l, known); err != nil {
			return answer{}, err
		}
	}
	index, res, err := s.propose(ctx, &fsm.PutLimit{Limit: l, Precondition: pre})
	if err != nil {
		return answer{}, err
	}
	t := s.deps.Log.Committed()
	// If the write changed nothing and others came after it, its index is a tag that no limit has.
	l.ModifyIndex = index
	if now, ok := t.Get(l.Pattern); ok && !res.Changed && now.ModifyIndex <= index {
		l.ModifyIndex, l.Source = now.ModifyIndex, now.Source
	}
	if res.Changed {
		s.noteLimits(ctx, l.Source, index, []api.Change{changeOf(before, l.Pattern, &l)})
	}
	if l.Evict {
		s.note(ctx, "connections above the limit are being closed", "scope", l.Pattern.Scope().String(), "pattern", l.Pattern.String(), "index", index)
	}
	return answer{
		body: api.LimitWritten{Index: index, Limit: api.LimitOf(&l)}, etag: api.ETag(l.ModifyIndex),
		index: index, table: visibleAt(index, res, t),
	}, nil
}

// deleteLimit parses DELETE /v1/limits/{scope}/{pattern}.
func (s *Server) deleteLimit(r *http.Request, body []byte) (commit, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	if err := takesNothing(body); err != nil {
		return nil, err
	}
	cond, err := parseCondition(r)
	if err != nil {
		return nil, err
	}
	p, err := pattern(r)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (answer, error) { return s.commitDelete(ctx, p, cond) }, nil
}

func (s *Server) commitDelete(ctx context.Context, p limit.Pattern, cond condition) (answer, error) {
	before := s.deps.Log.Committed()
	index, res, err := s.propose(ctx, &fsm.DeleteLimit{Pattern: p, Precondition: cond.forLimit(before, p)})
	switch {
	case errors.Is(err, fsm.ErrNotFound) && !errors.Is(err, fsm.ErrPrecondition):
		return answer{}, noSuchLimit(p)
	case err != nil:
		return answer{}, fmt.Errorf("%w (%s)", err, p.Name())
	}
	t := s.deps.Log.Committed()
	body := api.LimitDeleted{Index: index, Scope: p.Scope().String(), Pattern: p.String()}
	uncovered, ok := t.Get(p)
	if ok && uncovered.Source == limit.SourceConfig {
		w := api.LimitOf(uncovered)
		body.Uncovered = &w
	} else {
		uncovered = nil
	}
	s.noteLimits(ctx, limit.SourceAPI, index, []api.Change{changeOf(before, p, uncovered)})
	return answer{body: body, index: index, table: visibleAt(index, res, t)}, nil
}

// replaceLimits parses PUT /v1/limits[?dry_run=true][&evict=true].
func (s *Server) replaceLimits(r *http.Request, body []byte) (commit, error) {
	q, err := query(r, "dry_run", "evict")
	if err != nil {
		return nil, err
	}
	dry, err := queryBool(q, "dry_run")
	if err != nil {
		return nil, err
	}
	evict, err := queryBool(q, "evict")
	if err != nil {
		return nil, err
	}
	cond, err := parseCondition(r)
	if err != nil {
		return nil, err
	}
	ls, err := parseLimits(body, limit.SourceAPI, evict)
	if err != nil {
		return nil, err
	}
	if dry {
		return func(context.Context) (answer, error) { return s.dryRun(ls, cond) }, nil
	}
	return func(ctx context.Context) (answer, error) { return s.commitReplace(ctx, ls, cond) }, nil
}

// errListExists is the error of a write that is to create the list of all limits.
var errListExists = fmt.Errorf("%w: the list of limits is always there", fsm.ErrPrecondition)

func (s *Server) dryRun(ls []limit.Limit, cond condition) (answer, error) {
	t := s.deps.Log.Committed()
	switch p := cond.forTable(t); {
	case p.MustNotExist:
		return answer{}, errListExists
	case p.MatchIndex != nil && *p.MatchIndex != t.Index:
		return answer{}, fmt.Errorf("%w: the index is %d now: read it again", fsm.ErrPrecondition, t.Index)
	}
	return answer{body: api.LimitsReplaced{Index: t.Index, DryRun: true, Changes: difference(t, ls)}, etag: api.ETag(t.Index)}, nil
}

func (s *Server) commitReplace(ctx context.Context, ls []limit.Limit, cond condition) (answer, error) {
	before := s.deps.Log.Committed()
	pre := cond.forTable(before)
	if pre.MustNotExist {
		return answer{}, errListExists
	}
	if known, ok := repeated(ctx); ok {
		var err error
		if pre, err = repeatLimits(before, ls, known); err != nil {
			return answer{}, err
		}
	}
	index, res, err := s.propose(ctx, &fsm.ReplaceLimits{Source: limit.SourceAPI, Limits: ls, Precondition: pre})
	if err != nil {
		return answer{}, err
	}
	changes := []api.Change{}
	if res.Changed { // else others have written the same since before, and the changes are theirs
		changes = difference(before, ls)
	}
	s.noteLimits(ctx, limit.SourceAPI, index, changes)
	if len(ls) > 0 && ls[0].Evict { // all have the same Evict
		s.note(ctx, "connections above the limits are being closed", "limits", len(ls), "index", index)
	}
	t := s.deps.Log.Committed()
	at := visibleAt(index, res, t)
	return answer{body: api.LimitsReplaced{Index: index, Changes: changes}, etag: api.ETag(at), index: index, table: at}, nil
}

// replaceConfigLimits parses a write of ReplaceConfigLimits, on the leader.
func (s *Server) replaceConfigLimits(_ *http.Request, body []byte) (commit, error) {
	ls, err := parseLimits(body, limit.SourceConfig, false)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (answer, error) {
		// An entry without changes would still be sent to every server, with the whole list.
		if now, ok := s.deps.Log.ConfigLimits(ctx); ok && sameLimits(now, ls) {
			t := s.deps.Log.Committed()
			return answer{body: configReplaced{Index: t.Index}, index: t.Index, table: t.Index}, nil
		}
		before := s.deps.Log.Committed()
		index, res, err := s.propose(ctx, &fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: ls})
		if err != nil {
			return answer{}, err
		}
		if res.Changed {
			s.noteLimits(ctx, limit.SourceConfig, index, difference(before, underAPI(before, ls, index)))
		}
		at := visibleAt(index, res, s.deps.Log.Committed())
		return answer{body: configReplaced{Index: index, Changed: res.Changed}, index: index, table: at}, nil
	}, nil
}

// underAPI returns the limits in force once the config's are ls, written at index. The table read
// after the write would not do: it may hold what others have written, too.
func underAPI(t *limit.Table, ls []limit.Limit, index uint64) []limit.Limit {
	var both []limit.Limit
	for _, l := range t.Limits() {
		if l.Source == limit.SourceAPI {
			both = append(both, l)
		}
	}
	for _, l := range ls {
		l.ModifyIndex = index
		both = append(both, l)
	}
	return fsm.Effective(both)
}

// configReplaced is the leader's answer to a node that sent its config's limits.
type configReplaced struct {
	Index   uint64 `json:"index"` // of the write, or of the equal limits that were there already
	Changed bool   `json:"changed"`
}

// sameLimits compares two lists of the same source, whatever their order.
func sameLimits(a, b []limit.Limit) bool {
	if len(a) != len(b) {
		return false
	}
	byPattern := make(map[limit.Pattern]*limit.Limit, len(a))
	for i := range a {
		byPattern[a[i].Pattern] = &a[i]
	}
	for i := range b {
		if l, ok := byPattern[b[i].Pattern]; !ok || !l.SameValue(&b[i]) {
			return false
		}
	}
	return true
}

// ReplaceConfigLimits replaces the cluster's config limits, through the leader, and reports whether
// any changed. Limits that the cluster has already are not written again. Its errors are those of
// [Log], [ErrNoLeader], [ErrNotVisible] as a *[api.Problem], the leader's *[api.Problem], or
// [limit.ErrInvalid].
func (s *Server) ReplaceConfigLimits(ctx context.Context, limits []limit.Limit) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteTimeout)
	defer cancel()
	wire := api.Limits{Limits: []api.Limit{}}
	for _, l := range limits {
		wire.Limits = append(wire.Limits, api.LimitOf(&l))
	}
	body, err := json.Marshal(wire)
	if err != nil {
		return false, fmt.Errorf("encode the config's limits: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, pathConfigLimits, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/json")
	c, err := s.replaceConfigLimits(r, body)
	if err != nil {
		return false, err
	}
	rep, err := s.deliver(ctx, r, body, c)
	if err != nil {
		return false, err
	}
	if rep.status >= 300 {
		return false, api.ParseProblem(rep.status, rep.header, rep.body)
	}
	var done configReplaced
	if err := json.Unmarshal(rep.body, &done); err != nil {
		return false, fmt.Errorf("read the leader's answer: %w", err)
	}
	return done.Changed, nil
}

// propose commits one command and turns a refusal into an error.
func (s *Server) propose(ctx context.Context, c fsm.Command) (uint64, fsm.Result, error) {
	index, res, err := s.deps.Log.Propose(ctx, c)
	if err == nil {
		err = res.Err
	}
	if _, again := repeated(ctx); again && errors.Is(err, fsm.ErrPrecondition) {
		err = ErrOutcomeUnknown // somebody has written meanwhile: perhaps the first attempt
	}
	return index, res, err
}

// visibleAt returns the first table index at which a write is visible. A write without effect is
// visible in the table that it was compared with: that is t, the committed table read after it,
// unless others have written since. Their index would be a tag of limits that this write never saw.
func visibleAt(index uint64, res fsm.Result, t *limit.Table) uint64 {
	if res.Changed {
		return index
	}
	return min(t.Index, index)
}

// difference lists the changes that would turn the effective limits into ls.
func difference(t *limit.Table, ls []limit.Limit) []api.Change {
	changed := map[limit.Pattern]api.Change{}
	wanted := make(map[limit.Pattern]bool, len(ls))
	for i := range ls {
		l := &ls[i]
		wanted[l.Pattern] = true
		if now, ok := t.Get(l.Pattern); !ok || !now.SameValue(l) {
			c := changeOf(t, l.Pattern, l)
			c.After.Source = ""
			changed[l.Pattern] = c
		}
	}
	for _, l := range t.Limits() {
		if !wanted[l.Pattern] {
			changed[l.Pattern] = changeOf(t, l.Pattern, nil)
		}
	}
	changes := make([]api.Change, 0, len(changed))
	for _, p := range slices.SortedFunc(maps.Keys(changed), limit.Pattern.Compare) {
		changes = append(changes, changed[p])
	}
	return changes
}

// changeOf returns the difference that one limit makes to t. after is nil if the limit is removed.
func changeOf(t *limit.Table, p limit.Pattern, after *limit.Limit) api.Change {
	c := api.Change{Action: "change", Scope: p.Scope().String(), Pattern: p.String()}
	if l, ok := t.Get(p); ok {
		w := api.LimitOf(l)
		c.Before = &w
	} else {
		c.Action = "add"
	}
	if after == nil {
		c.Action = "remove"
		return c
	}
	w := api.LimitOf(after)
	c.After = &w
	return c
}
