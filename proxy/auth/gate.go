package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
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

// Users, by Basic authentication (RFC 9110 §11.7, RFC 7617).
//
// A bcrypt check costs a core tens of milliseconds on purpose. So results are remembered, good and
// bad, under a MAC of the credentials with a key that this process has made. Unknown credentials
// wait their turn: few checks run at a time, equal credentials share one, and an address that often
// sends wrong ones is answered without a check.

const (
	// maxGood and maxBad bound the remembered credentials. Users are few, but one pair can be
	// written in several ways, so good ones need a bound too.
	maxGood = 16 << 10
	maxBad  = 4 << 10
	// maxCredentials is the longest Proxy-Authorization that is examined, in bytes.
	maxCredentials = 1 << 10
	// maxChecking bounds the requests that wait for a check, checkPatience the time that each
	// waits.
	maxChecking   = 1 << 10
	checkPatience = 5 * time.Second
	// An address may send failureBurst wrong credentials in a row, and then one per failureEvery.
	failureBurst = 20
	failureEvery = 3 * time.Second
	// maxFailing bounds the addresses whose failures are counted.
	maxFailing = 16 << 10
)

// User may use the proxy.
type User struct {
	Name string // UTF-8; no colon, no control characters
	Hash string // bcrypt: "$2y$10$…"
}

// Errors of checking credentials.
var (
	// ErrWrong means that there is no such user, or that the password is not the user's.
	ErrWrong = errors.New("wrong user or password")
	// ErrGuessing means that too many wrong passwords came from the address lately. Nothing was
	// checked.
	ErrGuessing = errors.New("too many wrong passwords from this address")
	// ErrBusy means that too many passwords wait to be checked, or that this one has waited for too
	// long.
	ErrBusy = errors.New("too many passwords are being checked")
)

// mark is the MAC of credentials.
type mark [sha256.Size]byte

// Gate is the state that all checks of a server share, whatever the roster.
type Gate struct {
	marks    sync.Pool     // of *marker
	seed     maphash.Seed  // chooses the hash that stands in for an unknown user's
	turns    chan struct{} // one entry for each running check
	waiting  atomic.Int64
	failures failures
	compare  func(hash, password []byte) error
}

// NewGate makes a gate; its memory of right credentials belongs to the rosters.
func NewGate() *Gate {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never returns an error
	return &Gate{
		marks:   sync.Pool{New: func() any { return &marker{mac: hmac.New(sha256.New, key)} }},
		seed:    maphash.MakeSeed(),
		turns:   make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/4)),
		compare: bcrypt.CompareHashAndPassword,
	}
}

// marker computes marks without allocating.
type marker struct {
	mac  hash.Hash
	sum  mark
	pair []byte // scratch, cleared after use
}

func (k *marker) mark(token []byte) mark {
	k.mac.Reset()
	k.mac.Write(token)
	k.mac.Sum(k.sum[:0])
	return k.sum
}

func (g *Gate) mark(token []byte) mark {
	k := g.marks.Get().(*marker)
	defer g.marks.Put(k)
	return k.mark(token)
}

// markOf is the mark of the token that most HTTP clients would make of a name and a password.
func (g *Gate) markOf(name, password []byte) mark {
	k := g.marks.Get().(*marker)
	defer g.marks.Put(k)
	k.pair = append(append(append(k.pair[:0], name...), ':'), password...)
	n := len(k.pair)
	k.pair = base64.StdEncoding.AppendEncode(k.pair, k.pair)
	m := k.mark(k.pair[n:])
	clear(k.pair)
	return m
}

// Roster is one set of users with the remembered credentials.
type Roster struct {
	users  []User
	byName map[string]int

	mu       sync.RWMutex
	good     map[mark]string // the user's name
	bad      map[mark]struct{}
	checking map[mark]chan struct{} // closed at the check's end
}

// NewRoster makes a roster, or returns the former one if the users are the same; nil turns
// authentication off. Good credentials of the former roster stay valid for users whose hash is the
// same.
func NewRoster(users []User, former *Roster) *Roster {
	switch {
	case len(users) == 0:
		return nil
	case former != nil && slices.Equal(users, former.users):
		return former
	}
	r := &Roster{
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

// Basic returns the user whose credentials the value of a Proxy-Authorization field carries. from
// is the client's address.
func (g *Gate) Basic(ctx context.Context, r *Roster, field []byte, from netip.Addr) (name string, err error) {
	token, ok := basicToken(field)
	if !ok {
		return "", ErrWrong
	}
	m := g.mark(token)
	if name, known := r.known(m); known {
		return name, nil
	}
	claimed, password, ok := decodeCredentials(token)
	if !ok {
		return "", ErrWrong
	}
	return g.examine(ctx, r, m, claimed, password, from)
}

// Password is [Gate.Basic] for a name and a password that came by themselves, as in SOCKS5. They
// are remembered as the same.
func (g *Gate) Password(ctx context.Context, r *Roster, name, password []byte, from netip.Addr) (string, error) {
	if bytes.IndexByte(name, ':') >= 0 {
		return "", ErrWrong // in Basic, the password would begin behind the colon
	}
	m := g.markOf(name, password)
	if user, known := r.known(m); known {
		return user, nil
	}
	if !printable(name) || !printable(password) {
		return "", ErrWrong
	}
	return g.examine(ctx, r, m, name, password, from)
}

// known returns the user whose credentials are remembered under the mark.
func (r *Roster) known(m mark) (user string, known bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	user, known = r.good[m]
	return user, known
}

// basicToken returns the credentials in base64, without the scheme.
func basicToken(field []byte) (token []byte, ok bool) {
	const scheme = "basic "
	if len(field) > maxCredentials || len(field) < len(scheme) || !bytes.EqualFold(field[:len(scheme)], []byte(scheme)) {
		return nil, false
	}
	return bytes.TrimLeft(field[len(scheme):], " "), true
}

// examine checks credentials that are not remembered as good.
func (g *Gate) examine(ctx context.Context, r *Roster, m mark, name, password []byte, from netip.Addr) (string, error) {
	if g.waiting.Add(1) > maxChecking {
		g.waiting.Add(-1)
		return "", ErrBusy
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
			return "", ErrWrong
		case mine != nil:
			passed, err := g.check(ctx, r, name, password, from)
			r.end(m, string(name), err == nil, passed)
			switch {
			case err != nil:
				return "", err
			case !passed:
				return "", ErrWrong
			}
			return string(name), nil
		}
		select {
		case <-other: // look again: the other check may have been refused because of its address
		case <-ctx.Done():
			return "", ErrBusy
		}
	}
}

// decodeCredentials splits the token (RFC 7617 §2): base64 of name, colon and password, without
// control characters.
func decodeCredentials(token []byte) (name, password []byte, ok bool) {
	text := make([]byte, base64.StdEncoding.DecodedLen(len(token)))
	n, err := base64.StdEncoding.Strict().Decode(text, token)
	text = text[:n]
	if err != nil || !printable(text) {
		return nil, nil, false
	}
	return bytes.Cut(text, []byte(":"))
}

// printable reports whether text is UTF-8 without control characters.
func printable(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(text)
}

// verdict is the remembered result of a check.
type verdict uint8

const (
	verdictNone verdict = iota
	verdictGood
	verdictBad
)

// begin returns the remembered verdict. If there is none, it begins a check, which the caller must
// end (mine), or returns the channel of the check under way (other).
func (r *Roster) begin(m mark) (user string, v verdict, mine, other chan struct{}) {
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

// end ends a check, and remembers its result if it has one (checked).
func (r *Roster) end(m mark, user string, checked, passed bool) {
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

// makeRoom drops arbitrary entries of a full map.
func makeRoom[V any](known map[mark]V, limit int) {
	for m := range known {
		if len(known) < limit {
			return
		}
		delete(known, m)
	}
}

// check waits for its turn and compares. For an unknown user it compares with another user's hash,
// so that it takes as long as for a known one.
func (g *Gate) check(ctx context.Context, r *Roster, name, password []byte, from netip.Addr) (passed bool, _ error) {
	if g.failures.tooMany(from, time.Now()) {
		return false, ErrGuessing
	}
	select {
	case g.turns <- struct{}{}:
		defer func() { <-g.turns }()
	case <-ctx.Done():
		return false, ErrBusy
	}
	if g.failures.tooMany(from, time.Now()) { // it may have changed during the wait
		return false, ErrGuessing
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

// failures counts wrong credentials by address. For each address it holds the time at which the
// failures are forgotten; every failure moves that time by failureEvery.
type failures struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]time.Time
}

// tooMany reports whether the address has used up its failures for now.
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

// makeRoom looks at four addresses. It drops those whose failures are forgotten or, if the map is
// full, all four.
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

// failingAs returns the address under which failures are counted. An IPv6 /64 counts as one,
// because it belongs to one machine.
func failingAs(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}
