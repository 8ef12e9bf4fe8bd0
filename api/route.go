package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// endpoint answers one request. The error it returns becomes a problem, so it must not have written
// anything before.
type endpoint func(w http.ResponseWriter, r *http.Request) error

// route maps the methods of one path to endpoints. A path that ends in a name in braces takes the
// rest of the request's path as that parameter, percent-decoded once, so that both 10.0.0.0%2F8 and
// 10.0.0.0/8 name the CIDR.
type route struct {
	path    string
	methods map[string]endpoint
}

// router finds the endpoint of a request. net/http's own multiplexer is not used because it
// redirects paths that it considers unclean, and answers 404 and 405 in plain text.
type router []route

func (rs router) find(r *http.Request) (endpoint, error) {
	path := r.URL.EscapedPath()
	for _, rt := range rs {
		fixed, name, param := strings.Cut(rt.path, "{")
		if !param {
			if path != rt.path {
				continue
			}
			return rt.endpoint(r)
		}
		rest, ok := strings.CutPrefix(path, fixed)
		if !ok || rest == "" {
			continue
		}
		value, err := url.PathUnescape(rest)
		if err != nil {
			return nil, malformed("%q in the path is not percent-encoded correctly", rest)
		}
		r.SetPathValue(strings.TrimSuffix(name, "}"), value)
		return rt.endpoint(r)
	}
	return nil, problemf(http.StatusNotFound, "no_such_path", "there is nothing at %s", r.URL.Path)
}

func (rt route) endpoint(r *http.Request) (endpoint, error) {
	method := r.Method
	if method == http.MethodHead || method == http.MethodOptions && isProbe(rt.path) {
		method = http.MethodGet
	}
	if e, ok := rt.methods[method]; ok {
		return e, nil
	}
	p := problemf(http.StatusMethodNotAllowed, "method_not_allowed", "%s does not take %s", r.URL.Path, r.Method)
	p.allow = rt.allow()
	return nil, p
}

// isProbe reports whether a path is one that load balancers probe, in ways of their own, such as
// OPTIONS.
func isProbe(path string) bool { return path == pathHealthz || path == pathReadyz }

func (rt route) allow() string {
	var names []string
	for m := range rt.methods {
		names = append(names, m)
		if m == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	if isProbe(rt.path) {
		names = append(names, http.MethodOptions)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
