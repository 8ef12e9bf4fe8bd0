package connlimit

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// ErrLimit is what errors.Is finds in every refusal by a limit.
var ErrLimit = errors.New("over the limit")

// Scope says for whom a limit counts.
type Scope int

const (
	ScopeClient  Scope = 1 // Limits.PerClient, or that of a Network
	ScopeNetwork Scope = 2 // Network.Total
	ScopeTotal   Scope = 3 // Limits.Total
	ScopeCluster Scope = 4 // a limit in the cluster
)

// String returns "client", "network", "total" or "cluster".
func (s Scope) String() string {
	switch s {
	case ScopeClient:
		return "client"
	case ScopeNetwork:
		return "network"
	case ScopeTotal:
		return "total"
	case ScopeCluster:
		return "cluster"
	}
	return fmt.Sprintf("Scope(%d)", int(s))
}

// Error is a refusal by a limit.
type Error struct {
	Scope Scope
	// Kind is "connections" or "requests".
	Kind string
	// Limit is the limit's number; 0 blocks. Of ScopeCluster other numbers are unknown, and −1.
	Limit int
	// Prefix is the client, or the network. Of other scopes it is the zero Prefix.
	Prefix netip.Prefix
	// Cause is the cluster's own error; nil of other scopes.
	Cause error

	after time.Duration // 0 for none
}

// Error names who is over which limit.
func (e *Error) Error() string {
	who := "the server"
	switch {
	case e.Scope == ScopeCluster:
		return "connlimit: the cluster has no slot: " + e.Cause.Error()
	case e.Scope != ScopeTotal && e.Prefix.IsSingleIP():
		who = e.Scope.String() + " " + e.Prefix.Addr().String()
	case e.Scope != ScopeTotal && e.Prefix.IsValid():
		who = e.Scope.String() + " " + e.Prefix.String()
	case e.Scope != ScopeTotal:
		who = "a client without an address"
	}
	if e.Limit == 0 {
		return fmt.Sprintf("connlimit: %s is blocked: its limit is 0 %s", who, e.Kind)
	}
	kind := e.Kind
	if e.Limit == 1 {
		kind = strings.TrimSuffix(kind, "s")
	}
	return fmt.Sprintf("connlimit: %s is at its limit of %d %s", who, e.Limit, kind)
}

// Unwrap returns the Cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, ErrLimit) true.
func (e *Error) Is(target error) bool { return target == ErrLimit }

// RetryAfter returns when to try again, as far as it is known; false where waiting does not help,
// because the limit is 0.
func (e *Error) RetryAfter() (time.Duration, bool) { return e.after, e.after > 0 }

// Blocked reports whether the limit is 0.
func (e *Error) Blocked() bool { return e.Limit == 0 }

func (r *rules) refusal(scope Scope, v verdict) *Error {
	e := &Error{Scope: scope, Kind: r.kind}
	switch scope {
	case ScopeClient:
		e.Limit, e.Prefix = v.perClient.n, v.key.prefix()
	case ScopeNetwork:
		e.Limit, e.Prefix = v.network.Total.n, v.network.Prefix
	case ScopeTotal:
		e.Limit = r.Total.n
	}
	if e.Limit > 0 || r.retryAfterBlocks {
		e.after = time.Duration(r.retryAfter)
	}
	return e
}

func (r *rules) clusterRefusal(cause error, retryAfter func() (time.Duration, bool)) *Error {
	e := &Error{Scope: ScopeCluster, Kind: r.kind, Limit: -1, Cause: cause}
	var block interface{ Blocked() bool }
	if errors.As(cause, &block) && block.Blocked() {
		e.Limit = 0
	}
	after, known := retryAfter()
	if e.after = after; !known && (e.Limit != 0 || r.retryAfterBlocks) {
		e.after = time.Duration(r.retryAfter)
	}
	return e
}
