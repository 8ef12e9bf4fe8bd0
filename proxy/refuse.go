package proxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/sock"
)

// A refused CONNECT ends the client's connection, because bytes sent early for the tunnel must not
// be read as a request. Other refused requests leave it open, unless they have content. A 407 keeps
// the connection open so that the client can retry with credentials, unless bytes follow the
// CONNECT: those were sent without credentials.

// refusal says why the proxy turns a request away, in no protocol's terms. refusehttp.go renders it
// as an HTTP answer, counters.go counts it by its reason.
type refusal struct {
	reason     reason
	details    string            // one line, printable ASCII, nothing about other users of the host
	retryAfter time.Duration     // 0: the client is not asked to try again
	limit      *lease.LimitError // the limit in the way; nil: none, or it is not known
}

// reason is the cause of a refusal.
type reason uint8

const (
	reasonInternal     reason = iota // the request could not be admitted, for a cause without a name
	reasonExhausted                  // the machine is out of ports, descriptors or memory
	reasonNoLease                    // the node has no live session with the cluster
	reasonDraining                   // the node takes no new requests
	reasonOverLimit                  // a limit is reached
	reasonQueueFull                  // it is, and so many requests wait that no further one may
	reasonQueueTimeout               // it is, and no slot or token came in time
	reasonBlocked                    // the limit is 0: waiting does not help
	reasonClosed                     // an operator closed the connection

	reasonClientDenied  // allow_clients excludes the client's address
	reasonCredentials   // credentials are missing or wrong
	reasonGuessing      // too many wrong credentials came from the address
	reasonUnchecked     // too many credentials wait to be checked
	reasonMalformed     // the request can't be parsed, or asks for something unsupported
	reasonProtocol      // the policy leaves out the client's protocol
	reasonCommand       // a SOCKS5 command other than CONNECT
	reasonAddressType   // a SOCKS5 destination that is neither a name nor an address
	reasonAddress       // a SOCKS5 destination that is an address, where only names are allowed
	reasonHeadTimeout   // the request's head did not arrive in time
	reasonHeadTooLarge  // the request's head is longer than http1.MaxHead, or has too many fields
	reasonClientStalled // the request's content stopped arriving

	reasonProhibited         // the policy excludes the destination's address
	reasonLoop               // the request has passed, or would pass, a proxy of this cluster
	reasonNode               // the destination is a node's own port
	reasonDNS                // the name does not resolve
	reasonDNSTimeout         // the name servers did not answer in time
	reasonConnectionRefused  // the destination refused the connection
	reasonConnectionTimeout  // the destination did not answer the connection in time
	reasonConnectionBroken   // the upstream ended the connection too early
	reasonUnroutable         // no route leads to the destination
	reasonUnavailable        // connecting failed otherwise
	reasonNoResponse         // the upstream did not answer the request in time
	reasonWriteTimeout       // the upstream stopped reading the request
	reasonBadResponse        // the upstream's response can't be parsed
	reasonResponseHeadTooBig // the same of the upstream's response

	reasonCount
)

// limited reports whether a limit is the cause.
func (r reason) limited() bool {
	switch r {
	case reasonOverLimit, reasonQueueFull, reasonQueueTimeout, reasonBlocked:
		return true
	}
	return false
}

// Causes that may end a flow before it has an upstream connection.
var (
	errClientGone = errors.New("the client went away")
	errProhibited = errors.New("the destination's address is not allowed")
	errLoop       = errors.New("the destination is a proxy port of this cluster")
	errSevered    = errors.New("the slot was withdrawn")
	errFenced     = errors.New("the node can't prove its session any more")
	errEvicted    = errors.New("the limit was lowered and its connections evicted")

	errRequestEvicted = errors.New("a limit that the request counts under was lowered and its requests evicted")
	errClosed         = errors.New("closed by an operator")
	errShutdown       = errors.New("the proxy was stopped")
)

func badRequest(details string) *refusal {
	return &refusal{reason: reasonMalformed, details: details}
}

func badResponse(details string) *refusal {
	return &refusal{reason: reasonBadResponse, details: details}
}

// Refusals by this node or for the sake of a limit.
var (
	refuseDraining = refusal{reason: reasonDraining, details: "draining", retryAfter: retryAfter}
	refuseNoLease  = refusal{reason: reasonNoLease, details: "no lease", retryAfter: retryAfter}
	// The limit was lowered while the upstream was dialled.
	refuseEvicted        = refusal{reason: reasonOverLimit, details: "the host is at its limit of connections", retryAfter: retryAfter}
	refuseRequestEvicted = refusal{reason: reasonOverLimit, details: "a connection limit was lowered, and the request evicted", retryAfter: retryAfter}
	refuseUnadmitted     = refusal{reason: reasonInternal, details: "the connection could not be admitted", retryAfter: retryAfter}
	refuseClosed         = refusal{reason: reasonClosed, details: "an operator closed the connection"}
	refuseClosedEarly    = refusal{reason: reasonClosed, details: errClosed.Error() + " of the proxy"}
)

// tooMany is what is wrong with a head after [http1.ErrTooMany].
const tooMany = "has more than 1000 fields, or more than 100 names in Connection"

// Refusals for something that the client is or does.
var (
	refuseClient   = refusal{reason: reasonClientDenied, details: "client address not allowed"}
	refuseTimeout  = refusal{reason: reasonHeadTimeout, details: "the request head took too long"}
	refuseHTTP     = refusal{reason: reasonProtocol, details: "this port speaks SOCKS5 only: use socks5h:// in the proxy's URL"}
	refuseTooLarge = refusal{reason: reasonHeadTooLarge, details: "the request head is longer than 64 KiB"}
	refuseTooMany  = refusal{reason: reasonHeadTooLarge, details: "the request head " + tooMany}
	refuseStalled  = refusal{reason: reasonClientStalled,
		details: "the client stalled: it stopped sending the request's content"}
	refuseLoop = refusal{reason: reasonLoop, details: "the request came through this node already"}
)

// Refusals for missing or wrong credentials.
var (
	refuseAnonymous   = refusal{reason: reasonCredentials, details: "this proxy asks for a user and a password"}
	refuseCredentials = refusal{reason: reasonCredentials, details: auth.ErrWrong.Error()}
	refuseGuessing    = refusal{reason: reasonGuessing, details: auth.ErrGuessing.Error(), retryAfter: retryAfter}
	refuseUnchecked   = refusal{reason: reasonUnchecked, details: auth.ErrBusy.Error(), retryAfter: retryAfter}
)

// refuseUser maps an error of checking credentials.
func refuseUser(err error) *refusal {
	switch err {
	case auth.ErrGuessing:
		return &refuseGuessing
	case auth.ErrBusy:
		return &refuseUnchecked
	}
	return &refuseCredentials
}

// Refusals for something that the destination is or does.
var (
	refuseNested     = refusal{reason: reasonLoop, details: "the destination is a proxy of this cluster"}
	refuseBroken     = refusal{reason: reasonConnectionBroken, details: "the upstream ended the connection before it answered"}
	refuseNoResponse = refusal{reason: reasonNoResponse, details: "the upstream stalled: it did not answer in time"}
	refuseUnwritable = refusal{reason: reasonWriteTimeout, details: "the upstream stalled: it stopped taking the request"}
	refuseLongHead   = refusal{reason: reasonResponseHeadTooBig, details: "the upstream's head is longer than 64 KiB"}
	refuseManyFields = refusal{reason: reasonResponseHeadTooBig, details: "the upstream's head " + tooMany}
)

// Reasons to cut a tunnel whose client has had its 200: they are logged and counted, not sent.
var (
	cutNode   = refusal{reason: reasonNode, details: "the upstream answered as a node's own port"}
	cutNested = refusal{reason: reasonLoop, details: "the upstream answered as a proxy of this cluster"}
)

// refuseAdmission maps an error of Begin, Acquire or Take.
func refuseAdmission(err error) *refusal {
	var limited *lease.LimitError
	switch {
	case errors.As(err, &limited):
		return refuseLimit(limited)
	case errors.Is(err, lease.ErrNoLease), errors.Is(err, errFenced):
		return &refuseNoLease
	case errors.Is(err, lease.ErrDraining), errors.Is(err, errShutdown):
		return &refuseDraining
	case errors.Is(err, errEvicted):
		return &refuseEvicted
	case errors.Is(err, errRequestEvicted):
		return &refuseRequestEvicted
	case errors.Is(err, errClosed):
		return &refuseClosedEarly
	}
	return &refuseUnadmitted
}

// refuseLimit is the refusal for a limit that is in the way.
func refuseLimit(e *lease.LimitError) *refusal {
	r := &refusal{reason: reasonOverLimit, limit: e, retryAfter: cmp.Or(e.RetryAfter, retryAfter)}
	switch {
	case errors.Is(e.Why, lease.ErrBlocked):
		r.reason, r.details, r.retryAfter = reasonBlocked, "blocked", 0
		return r
	case errors.Is(e.Why, lease.ErrQueueFull):
		r.reason = reasonQueueFull
	case errors.Is(e.Why, lease.ErrQueueTimeout):
		r.reason = reasonQueueTimeout
	}
	r.details = limitDetails(e, r.reason)
	return r
}

// limitDetails says what is at its limit, without its name: others may share it. Scope and resource
// are the words of the API, so that a program can tell limits apart.
func limitDetails(e *lease.LimitError, why reason) string {
	k, details, unit := e.Key, "", "slot came free"
	switch {
	case k.Scope == limit.ScopeTotal:
		details = "the total of all workers is at its"
	case countsSeveral(e):
		details = "the " + k.Scope.String() + "s that share a limit are at their"
	default:
		details = "the " + k.Scope.String() + " is at its"
	}
	details += " limit of " + k.Resource.String()
	if k.Resource != limit.Connections {
		unit = "token came"
	}
	switch why {
	case reasonQueueFull:
		details += ", and the queue is full"
	case reasonQueueTimeout:
		details += ", and no " + unit + " within the queue's timeout"
	}
	return details
}

// refuseDial maps an error of resolving or connecting.
func refuseDial(err error) *refusal {
	var dns *net.DNSError
	because := func(why reason, details string) *refusal { return &refusal{reason: why, details: details} }
	switch {
	case errors.Is(err, errProhibited):
		return because(reasonProhibited, "the destination's address is not allowed")
	case errors.Is(err, errLoop):
		return &refuseNested
	case errors.As(err, &dns) && dns.IsNotFound:
		return because(reasonDNS, "no such host")
	case errors.As(err, &dns) && dns.IsTimeout:
		return because(reasonDNSTimeout, "the name could not be resolved in time")
	case errors.As(err, &dns):
		return because(reasonDNS, "the name could not be resolved")
	case errors.Is(err, unix.ECONNREFUSED):
		return because(reasonConnectionRefused, "the destination refused the connection")
	case isTimeout(err):
		return because(reasonConnectionTimeout, "the destination did not answer in time")
	case sock.IsReset(err):
		return because(reasonConnectionBroken, "the destination ended the connection")
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL):
		return because(reasonUnroutable, "there is no route to the destination")
	case isExhausted(err):
		return refuseExhausted(exhausted(err))
	}
	return because(reasonUnavailable, "the destination could not be connected to")
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT) ||
		errors.As(err, &timeout) && timeout.Timeout()
}
