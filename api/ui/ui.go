// Package ui is weir's page: HTML, style and scripts, embedded, as they are written.
//
// # Decisions
//
// There is no framework and no build step: the scripts are modules that every browser of recent
// years runs, and they are served as they are in the repository. The cost is that a few helpers of
// a framework (elements, keyed rows) are written by hand.
//
// Loading the page needs no token, because a browser can't send one with a typed address. The page
// contains no data; it asks for the token and sends it with each call. The policy of every file
// allows it to load and call only the node it came from, and no script builds HTML out of text.
package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strconv"
)

//go:embed index.html *.css *.js *.svg
var files embed.FS

// policy is the Content-Security-Policy of every file.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'"

// Page holds the page's files, ready to be served.
type Page struct {
	files map[string]file
}

type file struct {
	body        []byte
	contentType string
	etag        string
}

// New reads the embedded files.
func New() *Page {
	types := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
		".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}
	p := &Page{files: make(map[string]file)}
	entries, _ := fs.ReadDir(files, ".") // embedded files can always be read
	for _, e := range entries {
		body, _ := files.ReadFile(e.Name())
		sum := sha256.Sum256(body)
		p.files[e.Name()] = file{
			body: body, contentType: types[path.Ext(e.Name())], etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
		}
	}
	return p
}

// Serve sends the named file, or with "" the page. It returns false if there is no such file.
func (p *Page) Serve(w http.ResponseWriter, r *http.Request, name string) bool {
	if name == "" {
		name = "index.html"
	}
	f, ok := p.files[name]
	if !ok {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// The browser asks each time, and gets the file only if another version of weir has changed it.
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", f.etag)
	if r.Header.Get("If-None-Match") == f.etag {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	h.Set("Content-Length", strconv.Itoa(len(f.body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(f.body) // a client that has disconnected is no error here
	}
	return true
}
