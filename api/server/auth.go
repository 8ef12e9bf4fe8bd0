package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/weirproxy/weir/api"
)

// guard admits requests from callers that may call.
type guard struct {
	names  map[string]bool // lower-case host names that Host may carry
	tokens atomic.Pointer[tokens]
}

// tokens are hashed, so that comparing takes the same time for every input.
type tokens struct {
	write *[sha256.Size]byte // nil: there is none
	read  *[sha256.Size]byte
}

func newGuard(cfg Config) *guard {
	g := &guard{names: map[string]bool{"localhost": true}}
	for _, name := range append([]string{cfg.Node}, cfg.Hosts...) {
		g.names[strings.TrimSuffix(strings.ToLower(name), ".")] = true
	}
	g.setTokens(cfg.Token, cfg.ReadToken)
	return g
}

func (g *guard) setTokens(write, read string) {
	g.tokens.Store(&tokens{write: digest(write), read: digest(read)})
}

// SetTokens changes [Config.Token] and [Config.ReadToken] while the server runs. Streams that have
// begun go on.
func (s *Server) SetTokens(write, read string) { s.guard.setTokens(write, read) }

func digest(token string) *[sha256.Size]byte {
	if token == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	return &sum
}

// check refuses a request with a wrong Host or token.
func (g *guard) check(r *http.Request) error {
	if isProbe(r.URL.Path) {
		return nil // load balancers send any Host or none, and the answers tell a foreign page nothing
	}
	if !g.hostAllowed(r.Host) {
		return problemf(http.StatusForbidden, "host_not_allowed",
			"the Host %q is not one of this node's: use its address, its name or localhost, or add the name to api.hosts", r.Host)
	}
	if isPage(r.URL.Path) {
		return nil
	}
	return g.authorize(r)
}

// hostAllowed protects against DNS rebinding: a page whose name was pointed at this node sends that
// name as Host. Address literals are safe, because rebinding needs a name.
func (g *guard) hostAllowed(host string) bool {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" {
			return false
		}
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && g.names[strings.TrimSuffix(strings.ToLower(host), ".")]
}

// authorize checks the bearer token, RFC 6750, in constant time.
func (g *guard) authorize(r *http.Request) error {
	known := g.tokens.Load()
	if known.write == nil && known.read == nil {
		return nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		p := problemf(http.StatusUnauthorized, "token_required", "send the API's token as Authorization: Bearer TOKEN (weir: --token or WEIR_TOKEN)")
		p.authenticate = `Bearer realm="weir"`
		return p
	}
	sum := sha256.Sum256([]byte(token))
	// Both comparisons always run.
	writes, reads := equal(&sum, known.write), equal(&sum, known.read)
	switch {
	case writes:
		return nil
	case reads && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		return nil
	case reads:
		p := problemf(http.StatusForbidden, "read_only_token", "this token can only read: use the one in api.token_file")
		p.authenticate = `Bearer realm="weir", error="insufficient_scope"`
		return p
	}
	p := problemf(http.StatusUnauthorized, "token_unknown", "the token is not one of this node's")
	p.authenticate = `Bearer realm="weir", error="invalid_token"`
	return p
}

// mayWrite reports whether the request carries the token with full access.
func (g *guard) mayWrite(r *http.Request) bool {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return equal(&sum, g.tokens.Load().write)
}

func equal(a, b *[sha256.Size]byte) bool {
	return b != nil && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// checkMediaType makes sure that a page from elsewhere can't send a PUT or POST without a CORS
// preflight, which this API never grants. A form can't send application/json, and a script's
// request with it needs the preflight.
func checkMediaType(r *http.Request) error {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		return nil
	}
	want := "application/json"
	if path := r.URL.EscapedPath(); path == api.PathSnapshot || path == pathRestoredLimits {
		want = api.MediaSnapshot // a page can't send this type without a preflight either
	}
	got := r.Header.Values("Content-Type")
	if len(got) == 1 {
		// Malformed parameters don't change the type.
		mt, _, err := mime.ParseMediaType(got[0])
		if mt == want && (err == nil || errors.Is(err, mime.ErrInvalidMediaParameter)) {
			return nil
		}
	}
	if want == api.MediaSnapshot {
		return problemf(http.StatusUnsupportedMediaType, "media_type", "send the snapshot with Content-Type: %s", want)
	}
	return problemf(http.StatusUnsupportedMediaType, "media_type", "send Content-Type: application/json, also without a body")
}

// readBody reads a request's body of at most the given size.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, problemf(http.StatusRequestEntityTooLarge, "body_too_large", "the body is longer than %d bytes (%d MiB), the most that %s %s takes",
			most, most>>20, r.Method, r.URL.Path)
	case err != nil:
		return nil, malformed("the body could not be read to its end: %v", err)
	}
	bodyRead(w)
	return b, nil
}

// query returns the request's parameters, after checking that it has only the named ones, each
// once.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	for name := range q {
		if !slices.Contains(names, name) {
			if len(names) == 0 {
				return nil, malformed("%s takes no query parameters, and so not %q", r.URL.Path, name)
			}
			return nil, malformed("%s has no query parameter %q: it takes %s", r.URL.Path, name, strings.Join(names, ", "))
		}
	}
	return q, nil
}

// parseQuery returns the request's parameters, of any name, each given once. [url.URL.Query] would
// leave out what is malformed.
func parseQuery(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, malformed("the query is not encoded correctly: %v", err)
	}
	for name, values := range q {
		if len(values) > 1 {
			return nil, malformed("the query parameter %q is given more than once", name)
		}
	}
	return q, nil
}

// queryBool reads a parameter that is true or false; an absent one is false.
func queryBool(q url.Values, name string) (bool, error) {
	if !q.Has(name) {
		return false, nil
	}
	switch v := q.Get(name); v {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, malformed("the query parameter %s is true or false, not %q", name, v)
	}
}

// serve runs a request through check, the router and the endpoint. The request ends with the
// server, whoever serves the handler. serve recovers from panics, so that none ends the node.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, check func(*http.Request) error, routes router) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler {
			panic(v)
		}
		s.log.Error("a handler panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
		writeProblem(w, problemOf(errors.New("panic")))
	}()
	ctx, end := context.WithCancel(r.Context())
	defer end()
	defer context.AfterFunc(s.ctx, end)()
	r = r.WithContext(ctx)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := s.route(w, r, check, routes); err != nil {
		p := problemOf(err)
		if p.Status == http.StatusInternalServerError {
			s.log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		} else {
			s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", p.Status, "error", err)
		}
		writeProblem(w, p)
	}
}

func (s *Server) route(w http.ResponseWriter, r *http.Request, check func(*http.Request) error, routes router) error {
	if s.ctx.Err() != nil {
		return problemf(http.StatusServiceUnavailable, "stopping", "this node has stopped: ask another one")
	}
	if err := check(r); err != nil {
		return err
	}
	serve, err := routes.find(r)
	if err != nil {
		return err
	}
	if err := checkMediaType(r); err != nil {
		return err
	}
	return serve(w, r)
}
