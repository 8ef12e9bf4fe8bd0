package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/weirproxy/weir/api"
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
		params, ok := rt.match(path)
		if !ok {
			continue
		}
		for name, text := range params {
			value, err := url.PathUnescape(text)
			if err != nil {
				return nil, malformed("%q in the path is not percent-encoded correctly", text)
			}
			r.SetPathValue(name, value)
		}
		return rt.endpoint(r)
	}
	return nil, problemf(http.StatusNotFound, "no_such_path", "there is nothing at %s", r.URL.Path)
}

// match finds the parameters of a path, as they are written there. None is empty.
func (rt route) match(path string) (params map[string]string, ok bool) {
	if !strings.Contains(rt.path, "{") {
		return nil, path == rt.path
	}
	params = map[string]string{}
	for pattern := rt.path; pattern != ""; {
		fixed, rest, _ := strings.Cut(pattern, "{")
		if path, ok = strings.CutPrefix(path, fixed); !ok {
			return nil, false
		}
		var name string
		name, pattern, _ = strings.Cut(rest, "}")
		value := path
		if pattern != "" {
			value, _, _ = strings.Cut(path, "/")
		}
		if value == "" {
			return nil, false
		}
		params[name], path = value, path[len(value):]
	}
	return params, true
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
func isProbe(path string) bool { return path == api.PathHealthz || path == api.PathReadyz }

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
