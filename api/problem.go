package api

// Problem is an error answer, RFC 9457. [Client] returns an [Error] for one.
type Problem struct {
	Type   string `json:"type"` // always about:blank: Code distinguishes problems
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong and how to mend it, in a sentence.
	Detail string `json:"detail"`
	// Code names the problem for programs; codes are never renamed.
	Code string `json:"code"`
	// Index is the log index of a write that was committed nevertheless (code not_visible).
	Index uint64 `json:"index,omitempty"`

	allow        string // the Allow header of a 405
	authenticate string // the WWW-Authenticate header of a 401 or 403
	notLeader    bool   // the forwarding node must look for the leader again
}

// Error returns the detail.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}
