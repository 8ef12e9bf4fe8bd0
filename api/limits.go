package api

// Limits answers GET /v1/limits. It is also the body of PUT, which ignores Index: use If-Match.
type Limits struct {
	// Index is the log index of the last change to any limit; in quotes, the list's ETag.
	Index  uint64  `json:"index"`
	Limits []Limit `json:"limits"` // sorted by scope and pattern
}

// LimitWritten answers PUT /v1/limits/{scope}/{pattern}.
type LimitWritten struct {
	Index uint64 `json:"index"` // the write's log index
	Limit
}

// LimitDeleted answers DELETE /v1/limits/{scope}/{pattern}.
type LimitDeleted struct {
	Index   uint64 `json:"index"`
	Scope   string `json:"scope"`
	Pattern string `json:"pattern"`
	// Uncovered is the config's limit with this pattern, which is in force again; null if there is
	// none.
	Uncovered *Limit `json:"uncovered"`
}

// Name names what the limit was for, as [Limit.Name] does.
func (d *LimitDeleted) Name() string { return nameOf(d.Scope, d.Pattern) }

// LimitsReplaced answers PUT /v1/limits.
type LimitsReplaced struct {
	// Index is the write's log index or, for a dry run, that of the compared table. Its ETag in an
	// If-Match makes sure that the following write does what the dry run showed.
	Index   uint64   `json:"index"`
	DryRun  bool     `json:"dry_run"`
	Changes []Change `json:"changes"` // sorted by scope and pattern; empty, not null
}

// Change is one limit's difference.
type Change struct {
	Action  string `json:"action"` // "add", "change" or "remove"
	Scope   string `json:"scope"`
	Pattern string `json:"pattern"`
	Before  *Limit `json:"before"` // null for add
	After   *Limit `json:"after"`  // null for remove
}

// Name names what the changed limit is for, as [Limit.Name] does.
func (c *Change) Name() string { return nameOf(c.Scope, c.Pattern) }
