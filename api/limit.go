package api

import (
	"fmt"
	"strings"

	"github.com/weirproxy/weir/limit"
)

// Limit is one limit, in answers and in the bodies of writes.
//
// In the body of PUT /v1/limits/{scope}/{pattern} no field is required; Scope and Pattern, if
// given, must be the path's. Source and ModifyIndex are ignored in bodies, so that a limit can be
// written back as it was read.
type Limit struct {
	// Scope is "host", "client", "user", "total", "key" or "connection"; "" in a body is "host".
	Scope string `json:"scope"`
	// Pattern is canonical in answers, and "" in the scopes total and connection.
	Pattern string `json:"pattern"`
	// Connections is the most at once: of a host upstream connections, of client, user and total
	// requests in hand, of a key permits. 0 blocks; null or absent, no cap.
	Connections *int64 `json:"connections"`
	// Requests is how many may begin, by time; null or absent, no cap.
	Requests *Rate `json:"requests"`
	// Bandwidth is how many bytes may pass, by time; null or absent, no cap.
	Bandwidth *Bandwidth `json:"bandwidth"`
	// Queue lets requests wait; if null or absent, they are refused at once.
	Queue *Queue `json:"queue"`
	// Shared makes all that match share one count.
	Shared bool `json:"shared"`
	// Mode is "enforce", or "report": then the limit refuses and slows down nothing, and counts what
	// it would have. Absent or "" in a body: "enforce".
	Mode string `json:"mode"`
	// Source is "api" or "config".
	Source string `json:"source,omitempty"`
	// ModifyIndex is the log index of the last write of this limit; in quotes, its ETag.
	ModifyIndex uint64 `json:"modify_index,omitempty"`
}

// The values of Limit.Mode.
const (
	ModeEnforce = "enforce"
	ModeReport  = "report"
)

// Rate is a number of requests by time.
type Rate struct {
	Rate string `json:"rate"` // "10/s", "600/m", "0.5/h"
	// Burst is the most that begin at once. Absent or null in a body: what a second brings, at least
	// 1.
	Burst int64 `json:"burst,omitempty"`
}

// Bandwidth is bytes a second, in each direction for itself, as in "10MB".
type Bandwidth struct {
	Upload   string `json:"upload,omitempty"`   // from workers; absent: no cap
	Download string `json:"download,omitempty"` // to workers; absent: no cap
	Burst    string `json:"burst,omitempty"`    // bytes at once; absent: what a second brings, at least 64KiB
}

// Queue bounds how long, and how many per node, requests may wait.
type Queue struct {
	Timeout Duration `json:"timeout"`
	Size    int      `json:"size"`
}

// LimitOf is a limit as the API shows it.
func LimitOf(l *limit.Limit) Limit {
	w := Limit{
		Scope: l.Pattern.Scope().String(), Pattern: l.Pattern.String(), Shared: l.Shared, Mode: modeOf(l),
		Requests: rateOf(l), Bandwidth: bandwidthOf(l), Source: l.Source.String(), ModifyIndex: l.ModifyIndex,
	}
	if l.Capped() {
		n := l.Connections
		w.Connections = &n
	}
	if l.Queue.Enabled() {
		w.Queue = &Queue{Timeout: Duration(l.Queue.Timeout), Size: l.Queue.Size}
	}
	return w
}

func modeOf(l *limit.Limit) string {
	if l.Report {
		return ModeReport
	}
	return ModeEnforce
}

func rateOf(l *limit.Limit) *Rate {
	if l.Requests == (limit.Rate{}) {
		return nil
	}
	return &Rate{Rate: l.Requests.String(), Burst: l.Requests.Burst}
}

func bandwidthOf(l *limit.Limit) *Bandwidth {
	if l.Bandwidth == (limit.Bandwidth{}) {
		return nil
	}
	text := func(n int64) string {
		if n == 0 {
			return ""
		}
		return limit.FormatBytes(n)
	}
	return &Bandwidth{Upload: text(l.Bandwidth.Upload), Download: text(l.Bandwidth.Download), Burst: text(l.Bandwidth.Burst)}
}

// Name names what the limit is for, in messages: the pattern, with the scope in front if that is
// not host.
func (l *Limit) Name() string { return nameOf(l.Scope, l.Pattern) }

func nameOf(scope, pattern string) string {
	if scope == limit.ScopeHost.String() || scope == "" {
		return pattern
	}
	return strings.TrimSpace(scope + " " + pattern)
}

// Words says what a limit allows: "5 connections, 10/s requests, shared". No limit is "none".
func (l *Limit) Words() string {
	if l == nil {
		return "none"
	}
	var parts []string
	switch {
	case l.Connections == nil:
	case *l.Connections == 0:
		parts = append(parts, "blocked")
	case *l.Connections == 1:
		parts = append(parts, "1 connection")
	default:
		parts = append(parts, fmt.Sprintf("%d connections", *l.Connections))
	}
	if r := l.Requests; r != nil {
		parts = append(parts, fmt.Sprintf("%s requests (%d at once)", r.Rate, r.Burst))
	}
	if b := l.Bandwidth; b != nil {
		parts = append(parts, b.words()...)
	}
	if len(parts) == 0 {
		parts = append(parts, "no cap")
	}
	if l.Queue != nil {
		parts = append(parts, fmt.Sprintf("queue of %d for %s", l.Queue.Size, l.Queue.Timeout))
	}
	if l.Shared {
		parts = append(parts, "shared")
	}
	if l.Mode == ModeReport {
		parts = append(parts, "report only")
	}
	return strings.Join(parts, ", ")
}

func (b *Bandwidth) words() []string {
	var parts []string
	if b.Upload != "" {
		parts = append(parts, b.Upload+"/s up")
	}
	if b.Download != "" {
		parts = append(parts, b.Download+"/s down")
	}
	if b.Burst != "" {
		parts[len(parts)-1] += " (" + b.Burst + " at once)"
	}
	return parts
}
