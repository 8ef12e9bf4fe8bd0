package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

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
}

// Error returns the detail.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}

// ParseProblem reads an error answer. An answer that is no problem, perhaps of a proxy on the way,
// is made into one.
func ParseProblem(status int, h http.Header, body []byte) *Problem {
	p := new(Problem)
	if strings.HasPrefix(h.Get("Content-Type"), MediaProblem) && json.Unmarshal(body, p) == nil && p.Status != 0 {
		return p
	}
	return &Problem{
		Type: "about:blank", Title: http.StatusText(status),
		Status: status, Code: "unknown", Detail: fmt.Sprintf("status %d: %s", status, shorten(strings.TrimSpace(string(body)))),
	}
}

func shorten(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
