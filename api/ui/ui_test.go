package ui

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func get(t *testing.T, p *Page, method, name string, header map[string]string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "/ui/"+name, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	if !p.Serve(w, r, name) {
		t.Fatalf("there is no %q", name)
	}
	return w
}

func names(t *testing.T) []string {
	t.Helper()
	all, err := fs.Glob(files, "*")
	if err != nil || !slices.Contains(all, "index.html") || !slices.Contains(all, "app.js") {
		t.Fatalf("%v %v", all, err)
	}
	return all
}

func TestEveryFileIsServedLockedDown(t *testing.T) {
	p := New()
	for _, name := range append(names(t), "") {
		w := get(t, p, "GET", name, nil)
		h := w.Header()
		if w.Code != 200 || w.Body.Len() == 0 || h.Get("Content-Type") == "" {
			t.Errorf("%s: %d, %d bytes of %q", name, w.Code, w.Body.Len(), h.Get("Content-Type"))
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'self';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", name, csp)
		}
		if h.Get("Cache-Control") != "no-cache" || h.Get("Etag") == "" {
			t.Errorf("%s: Cache-Control %q, ETag %q", name, h.Get("Cache-Control"), h.Get("Etag"))
		}
		again := get(t, p, "GET", name, map[string]string{"If-None-Match": h.Get("Etag")})
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s: asked again, %d with %d bytes", name, again.Code, again.Body.Len())
		}
		if head := get(t, p, "HEAD", name, nil); head.Body.Len() != 0 || head.Header().Get("Content-Length") == "0" {
			t.Errorf("%s: HEAD has %d bytes", name, head.Body.Len())
		}
	}
	if p.Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/ui/ui.go", nil), "ui.go") {
		t.Error("a file that is not the page's is served")
	}
}

var (
	anyURL     = regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s'"<>)]*`)
	fetched    = regexp.MustCompile(`(?:src|href)="([^"#]+)"|from '([^']+)'|url\(([^)]+)\)`)
	textToHTML = regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser| style="`)
)

// TestNothingFromElsewhere: every address in the files is a namespace or a specification in a
// comment, and everything that they load is among them. Nor is HTML made from text anywhere, or
// style that the policy forbids.
func TestNothingFromElsewhere(t *testing.T) {
	all := names(t)
	for _, name := range all {
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			code, _, _ := strings.Cut(line, "// ")
			if strings.HasPrefix(strings.TrimSpace(line), "/**") || strings.HasPrefix(strings.TrimSpace(line), "*") {
				code = ""
			}
			for _, u := range anyURL.FindAllString(code, -1) {
				if u != "http://www.w3.org/2000/svg" {
					t.Errorf("%s has the address %s", name, u)
				}
			}
			if found := textToHTML.FindString(code); found != "" {
				t.Errorf("%s uses %q", name, found)
			}
		}
		for _, m := range fetched.FindAllStringSubmatch(string(b), -1) {
			target := path.Clean(m[1] + m[2] + m[3])
			if !slices.Contains(all, target) {
				t.Errorf("%s loads %q, which is not embedded", name, target)
			}
		}
	}
}
