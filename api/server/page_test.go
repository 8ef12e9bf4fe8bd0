package server

import (
	"strings"
	"testing"
)

// TestPageNeedsNoToken: a browser can't send one with an address that was typed; what the page then
// calls needs it.
func TestPageNeedsNoToken(t *testing.T) {
	a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
	for _, path := range []string{"/ui/", "/ui/app.js", "/ui/style.css"} {
		w := a.do(try{method: "GET", path: path})
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'self'") {
			t.Errorf("%s: %d, policy %q", path, w.Code, w.Header().Get("Content-Security-Policy"))
		}
		if w.Header().Get("Cache-Control") != "no-cache" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, w.Header())
		}
		refused(t, a.do(try{method: "GET", path: path, host: "evil.example"}), 403, "Host")
	}
	for _, path := range []string{"/", "/ui"} {
		if w := a.do(try{method: "GET", path: path}); w.Code != 302 || w.Header().Get("Location") != "/ui/" {
			t.Errorf("%s: %d to %q", path, w.Code, w.Header().Get("Location"))
		}
	}
	refused(t, a.do(try{method: "GET", path: "/v1/events"}), 401, "token")
	refused(t, a.do(try{method: "POST", path: "/ui/"}), 405, "POST")
}
