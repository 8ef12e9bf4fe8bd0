package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirproxy/weir/limit"
)

// draft is a limit while its block is read: what the file writes in parts that belong together.
type draft struct {
	Limit
	burst int64 // of requests; 0: not written
	mode  string
}

// The values of mode.
const (
	modeEnforce = "enforce"
	modeReport  = "report"
)

func newDraft(pattern limit.Pattern, at Position) draft {
	return draft{
		Limit: Limit{Limit: limit.Limit{Pattern: pattern, Connections: limit.Unlimited, Source: limit.SourceConfig}, At: at},
		mode:  modeEnforce,
	}
}

func (d *draft) finish() Limit {
	if d.burst > 0 && d.Requests != (limit.Rate{}) {
		d.Requests.Burst = d.burst
	}
	d.Report = d.mode == modeReport
	return d.Limit
}

// limitFields is the shape of the blocks of limits, scope by scope.
func limitFields() []field[draft] {
	var all []field[draft]
	for _, s := range limit.Scopes {
		path := "limits." + s.String()
		if s != limit.ScopeConnection {
			all = append(all, countFields(path, s)...)
		}
		all = append(all, bandwidthFields(path, s)...)
		if s != limit.ScopeConnection {
			all = append(all, queueFields(path)...)
		}
		mode := attr(path+".mode", choice(modeEnforce, modeReport), func(d *draft) *string { return &d.mode },
			"With report the limit refuses and slows down nothing: it counts and shows what it would have.").live()
		all = append(all, mode)
	}
	// Attributes come before the blocks that stand beside them.
	var sorted []field[draft]
	for _, depth := range []int{2, 3} {
		for _, f := range all {
			if strings.Count(f.Path, ".") == depth {
				sorted = append(sorted, f)
			}
		}
	}
	return sorted
}

// counted says what connections counts in a scope.
var counted = map[limit.Scope]string{
	limit.ScopeHost:   "The most upstream connections at once, idle ones included; 0 blocks the host.",
	limit.ScopeClient: "The most requests in hand at once: a tunnel until its end, a plain request until its response has been passed on, also while they wait for another limit; 0 blocks the client.",
	limit.ScopeUser:   "The most requests in hand at once, as of a client; 0 blocks the user. Requests without a user are under no limit of users.",
	limit.ScopeTotal:  "The most requests in hand at once, as of a client, over all clients and nodes; 0 blocks everything.",
	limit.ScopeKey:    "The most permits at once; 0 blocks the name.",
}

// sharing says what shared joins in a scope that has wildcards.
var sharing = map[limit.Scope]string{
	limit.ScopeHost:   "On a wildcard: all hosts that match share one count; otherwise each has its own.",
	limit.ScopeClient: "On a CIDR or *: all addresses that match share one count; otherwise each has its own.",
	limit.ScopeUser:   "On *: all users share one count; otherwise each has its own.",
	limit.ScopeKey:    "On a prefix or *: all names that match share one count; otherwise each has its own.",
}

func countFields(path string, s limit.Scope) []field[draft] {
	fields := []field[draft]{
		attr(path+".connections", integer(0, limit.MaxConnections), func(d *draft) *int64 { return &d.Connections }, counted[s]).live().byDefault("no cap"),
	}
	if doc, ok := sharing[s]; ok {
		fields = append(fields, attr(path+".shared", boolean(), func(d *draft) *bool { return &d.Shared }, doc).live())
	}
	begun := "The most tunnels and plain requests begun, by time: in no time t more than rate × t + burst."
	if s == limit.ScopeKey {
		begun = "The most that programs take, by time: in no time t more than rate × t + burst."
	}
	return append(fields,
		attr(path+".requests.rate", requestRate(), func(d *draft) *limit.Rate { return &d.Requests }, begun).live().byDefault("required in a requests block"),
		attr(path+".requests.burst", integer(1, limit.MaxRequests), func(d *draft) *int64 { return &d.burst },
			"The most that begin at once.").live().byDefault("what a second brings, at least 1"),
	)
}

func bandwidthFields(path string, s limit.Scope) []field[draft] {
	up, down := "Bytes a second from workers.", "Bytes a second to workers."
	switch s {
	case limit.ScopeKey:
		up, down = "Bytes a second that programs take to send.", "Bytes a second that programs take to receive."
	case limit.ScopeConnection:
		up, down = "Bytes a second from the worker, of each connection.", "Bytes a second to the worker, of each connection."
	}
	least := limit.FormatBytes(limit.MinByteBurst)
	return []field[draft]{
		attr(path+".bandwidth.upload", byteCount(1), func(d *draft) *int64 { return &d.Bandwidth.Upload }, up).live().byDefault("no cap"),
		attr(path+".bandwidth.download", byteCount(1), func(d *draft) *int64 { return &d.Bandwidth.Download }, down).live().byDefault("no cap"),
		attr(path+".bandwidth.burst", byteCount(limit.MinByteBurst), func(d *draft) *int64 { return &d.Bandwidth.Burst },
			"Bytes that pass at once, in each direction, at least "+least+".").live().byDefault("what a second brings, at least 64KiB"),
	}
}

func queueFields(path string) []field[draft] {
	return []field[draft]{
		attr(path+".queue.timeout", duration(minTimeout, limit.MaxQueueTimeout), func(d *draft) *time.Duration { return &d.Queue.Timeout },
			"The longest that a request over the limit waits. Without a queue block it is refused at once. With connections = 0 nobody waits; the queue is kept for when the limit is raised.").live().byDefault("required in a queue block"),
		attr(path+".queue.size", integer(1, limit.MaxQueueSize), func(d *draft) *int { return &d.Queue.Size },
			"The most requests that wait on one node.").live().byDefault("required in a queue block"),
	}
}

// requestRate is a number of requests by time; its burst is what follows from it.
func requestRate() valueType[limit.Rate] {
	const hint = `Write a number above 0 and /s, /m or /h, as in "10/s", "600/m" or "0.5/s".`
	return valueType[limit.Rate]{`requests by time, as in "10/s", "600/m" or "0.5/s"`, func(v value) (limit.Rate, []fault) {
		if v.kind != kindString {
			return limit.Rate{}, must(v, "a rate", unitHint(v, hint, "/s"))
		}
		r, err := limit.ParseRate(v.text, 0)
		if err != nil {
			return limit.Rate{}, v.fault(remedy(err, hint))
		}
		return r, nil
	}}
}

// byteCount is a number of bytes with its unit, from least on.
func byteCount(least int64) valueType[int64] {
	const hint = `Write a number above 0 and B, KB, MB, GB, KiB, MiB or GiB, as in "10MB".`
	most := limit.FormatBytes(limit.MaxBandwidth)
	return valueType[int64]{`bytes, as in "10MB" or "64KiB", at most ` + most, func(v value) (int64, []fault) {
		if v.kind != kindString {
			return 0, must(v, "bytes with their unit", unitHint(v, hint, "B"))
		}
		n, err := limit.ParseBytes(v.text)
		if err != nil {
			return 0, v.fault(remedy(err, hint))
		}
		if n < least {
			return 0, v.fault(fmt.Sprintf("%q is too small", v.text), fmt.Sprintf("Write at least %q.", limit.FormatBytes(least)))
		}
		return n, nil
	}}
}

// unitHint is what to write in place of a number that has no unit.
func unitHint(v value, hint, unit string) string {
	if v.kind == kindNumber && v.number.Sign() > 0 && numberText(v) != absurdNumber && v.number.IsInt() {
		return fmt.Sprintf("Write %q.", v.number.Text('f', 0)+unit)
	}
	return hint
}

// remedy takes an error of the limit package apart: what is wrong, and what to write instead, or
// else the hint given.
func remedy(err error, hint string) (message, instead string) {
	message = strings.TrimPrefix(err.Error(), limit.ErrInvalid.Error()+": ")
	if i := strings.LastIndex(message, ": write "); i >= 0 {
		return message[:i], "W" + message[i+len(": w"):] + "."
	}
	if problem, most, bounded := strings.Cut(message, ": at most "); bounded {
		return problem, "Write at most " + most + "."
	}
	return message, hint
}
