package proxy

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/maphash"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// Who a client is, by Basic authentication (RFC 9110 §11.7, RFC 7617).
//
// A bcrypt check costs a core tens of milliseconds on purpose. So one that has passed is
// remembered, by a MAC under a key that the process has made for itself, and one that has failed
// too. What is not remembered waits its turn: few checks run at a time, equal credentials share
// one, and an address from which wrong ones come often is answered without a check.

const (
	// maxGood and maxBad bound the credentials that are remembered. A set of users has few good
	// ones; they have a bound because one pair can be written in several ways.
	maxGood = 16 << 10
	maxBad  = 4 << 10
	// maxCredentials is the longest Proxy-Authorization that is looked at, in bytes.
	maxCredentials = 1 << 10
	// maxChecking bounds the requests that wait for a check, and checkPatience their wait.
	maxChecking   = 1 << 10
	checkPatience = 5 * time.Second
	// An address may fail failureBurst times in a row, and then once per failureEvery.
	failureBurst = 20
	failureEvery = 3 * time.Second
	// maxFailing bounds the addresses of which failures are counted.
	maxFailing = 16 << 10
)

// User is somebody who may use the proxy.
type User struct {
	Name string // UTF-8; no colon, no control characters
	Hash string // bcrypt: "$2y$10$…"
}

// The refusals of a user.
var (
	refuseAnonymous   = refusal{reason: reasonCredentials, details: "this proxy asks for a user and a password"}
	refuseCredentials = refusal{reason: reasonCredentials, details: "wrong user or password"}
	refuseGuessing    = refusal{reasonGuessing, "too many wrong passwords from this address", retryAfter}
	refuseUnchecked   = refusal{reasonUnchecked, "too many passwords are being checked", retryAfter}
)

// challenge is what a 407 carries (RFC 9110 §11.7.1, RFC 7617 §2.1).
const challenge = "Proxy-Authenticate: Basic realm=\"weir\", charset=\"UTF-8\"\r\n"

// mark stands for credentials: their MAC.
type mark [sha256.Size]byte

// gate is what all checks of a server share, whoever the users are.
type gate struct {
	marks    sync.Pool     // of *marker
	seed     maphash.Seed  // chooses what an unknown user is compared with
	turns    chan struct{} // one for each check that may run
	waiting  atomic.Int64
	failures failures
	compare  func(hash, password []byte) error
}

func newGate() *gate {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails: it stops the program instead
	return &gate{
		marks:   sync.Pool{New: func() any { return &marker{mac: hmac.New(sha256.New, key)} }},
		seed:    maphash.MakeSeed(),
		turns:   make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/4)),
		compare: bcrypt.CompareHashAndPassword,
	}
}

// marker makes marks, without an allocation for each.
type marker struct {
	mac hash.Hash
	sum mark
}

func (g *gate) mark(token []byte) mark {
	k := g.marks.Get().(*marker)
	defer g.marks.Put(k)
	k.mac.Reset()
	k.mac.Write(token)
	k.mac.Sum(k.sum[:0])
	return k.sum
}

// roster is one set of users, and what is remembered of their credentials.
type roster struct {
	users  []User
	byName map[string]int

	mu       sync.RWMutex
	good     map[mark]string // whose they are
	bad      map[mark]struct{}
	checking map[mark]chan struct{} // closed when the check has ended
}

// newRoster makes a roster, or returns the former one where nothing has changed; nil is no
// authentication. What the former one remembers of users whose hash is the same still holds.
func newRoster(users []User, former *roster) *roster {
	switch {
	case len(users) == 0:
		return nil
	case former != nil && slices.Equal(users, former.users):
		return former
	}
	r := &roster{
		users: users, byName: make(map[string]int, len(users)),
		good: make(map[mark]string), bad: make(map[mark]struct{}), checking: make(map[mark]chan struct{}),
	}
	for i, u := range users {
		r.byName[u.Name] = i
	}
	if former != nil {
		former.mu.RLock()
		defer former.mu.RUnlock()
		for m, name := range former.good {
			if i, still := r.byName[name]; still && users[i].Hash == former.users[former.byName[name]].Hash {
				r.good[m] = name
			}
		}
	}
	return r
}

// user says whose credentials the head carries, or what to answer instead.
func (g *gate) user(ctx context.Context, r *roster, h *head, from netip.Addr) (name string, _ *refusal) {
	switch h.authorizations {
	case 0:
		return "", &refuseAnonymous
	case 1:
	default: // which of them another parser would read can't be known
		return "", &refuseCredentials
	}
	token, ok := basicToken(h.authorization)
	if !ok {
		return "", &refuseCredentials
	}
	m := g.mark(token)
	r.mu.RLock()
	name, known := r.good[m]
	r.mu.RUnlock()
	if known {
		return name, nil
	}
	return g.examine(ctx, r, m, token, from)
}

// basicToken is what follows the scheme: the credentials in base64.
func basicToken(field []byte) (token []byte, ok bool) {
	const scheme = "basic "
	if len(field) > maxCredentials || !hasPrefixFold(field, scheme) {
		return nil, false
	}
	return bytes.TrimLeft(field[len(scheme):], " "), true
}

// examine judges credentials that are not known to be good.
func (g *gate) examine(ctx context.Context, r *roster, m mark, token []byte, from netip.Addr) (string, *refusal) {
	name, password, ok := decodeCredentials(token)
	if !ok {
		return "", &refuseCredentials
	}
	if g.waiting.Add(1) > maxChecking {
		g.waiting.Add(-1)
		return "", &refuseUnchecked
	}
	defer g.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	for {
		user, verdict, mine, other := r.begin(m)
		switch {
		case verdict == verdictGood:
			return user, nil
		case verdict == verdictBad:
			return "", &refuseCredentials
		case mine != nil:
			passed, refusal := g.check(ctx, r, name, password, from)
			r.end(m, string(name), refusal == nil, passed)
			switch {
			case refusal != nil:
				return "", refusal
			case !passed:
				return "", &refuseCredentials
			}
			return string(name), nil
		}
		select {
		case <-other: // it may have been refused for its own address's sake
		case <-ctx.Done():
			return "", &refuseUnchecked
		}
	}
}

// decodeCredentials splits them (RFC 7617 §2): base64 of a name, a colon and a password, without
// control characters.
func decodeCredentials(token []byte) (name, password []byte, ok bool) {
	text := make([]byte, base64.StdEncoding.DecodedLen(len(token)))
	n, err := base64.StdEncoding.Strict().Decode(text, token)
	text = text[:n]
	if err != nil || !utf8.Valid(text) {
		return nil, nil, false
	}
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return nil, nil, false
		}
	}
	return bytes.Cut(text, []byte(":"))
}

// verdict is what is known of credentials.
type verdict uint8

const (
	verdictNone verdict = iota
	verdictGood
	verdictBad
)

// begin says what is known, or begins a check, which is mine to end, or names the other one that is
// under way.
func (r *roster) begin(m mark) (user string, v verdict, mine, other chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if user, ok := r.good[m]; ok {
		return user, verdictGood, nil, nil
	}
	if _, ok := r.bad[m]; ok {
		return "", verdictBad, nil, nil
	}
	if other := r.checking[m]; other != nil {
		return "", verdictNone, nil, other
	}
	mine = make(chan struct{})
	r.checking[m] = mine
	return "", verdictNone, mine, nil
}

// end ends a check, and remembers what it has found, where it has found anything.
func (r *roster) end(m mark, user string, checked, passed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !checked:
	case passed:
		makeRoom(r.good, maxGood)
		r.good[m] = user
	default:
		makeRoom(r.bad, maxBad)
		r.bad[m] = struct{}{}
	}
	close(r.checking[m])
	delete(r.checking, m)
}

// makeRoom drops any entry of a full map.
func makeRoom[V any](known map[mark]V, limit int) {
	for m := range known {
		if len(known) < limit {
			return
		}
		delete(known, m)
	}
}

// check waits for its turn and compares. An unknown user takes as long as a known one, whose hash
// stands in.
func (g *gate) check(ctx context.Context, r *roster, name, password []byte, from netip.Addr) (passed bool, _ *refusal) {
	if g.failures.tooMany(from, time.Now()) {
		return false, &refuseGuessing
	}
	select {
	case g.turns <- struct{}{}:
		defer func() { <-g.turns }()
	case <-ctx.Done():
		return false, &refuseUnchecked
	}
	if g.failures.tooMany(from, time.Now()) { // by now
		return false, &refuseGuessing
	}
	i, known := r.byName[string(name)]
	if !known {
		i = int(maphash.Bytes(g.seed, name) % uint64(len(r.users)))
	}
	err := g.compare([]byte(r.users[i].Hash), password)
	if known && err == nil {
		return true, nil
	}
	g.failures.note(from, time.Now())
	return false, nil
}

// failures counts the wrong credentials that come from an address. It keeps, for each, the time at
// which its failures will be forgotten: every failure puts it off by failureEvery.
type failures struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]time.Time
}

// tooMany reports whether the address has to wait before it may fail again.
func (f *failures) tooMany(from netip.Addr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byAddr[failingAs(from)].Sub(now) > (failureBurst-1)*failureEvery
}

// note counts one failure.
func (f *failures) note(from netip.Addr, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from = failingAs(from)
	forgotten, known := f.byAddr[from]
	if !known {
		f.makeRoom(now)
	}
	if forgotten.Before(now) {
		forgotten = now
	}
	f.byAddr[from] = forgotten.Add(failureEvery)
}

// makeRoom drops, among a few addresses, those whose failures are forgotten, and where there are
// too many of others, any.
func (f *failures) makeRoom(now time.Time) {
	if f.byAddr == nil {
		f.byAddr = make(map[netip.Addr]time.Time)
	}
	looked := 0
	for addr, forgotten := range f.byAddr {
		if !forgotten.After(now) || len(f.byAddr) >= maxFailing {
			delete(f.byAddr, addr)
		}
		if looked++; looked == 4 {
			return
		}
	}
}

// failingAs is the address that failures are counted under: all of an IPv6 /64 belong to one
// machine.
func failingAs(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}
