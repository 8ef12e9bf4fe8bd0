package server

import (
	"net/http"
	"strings"
)

// pathUI is the page's address. It is served without a token, because it contains no data; it asks
// for the token itself.
const pathUI = "/ui/"

// page answers GET /ui/ and the files below it.
func (s *Server) page(w http.ResponseWriter, r *http.Request) error {
	if !s.ui.Serve(w, r, r.PathValue("file")) {
		return problemf(http.StatusNotFound, "no_such_path", "there is nothing at %s: the page is at %s", r.URL.Path, pathUI)
	}
	return nil
}

// toPage redirects from the node's bare address to the page.
func (s *Server) toPage(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Location", pathUI)
	w.WriteHeader(http.StatusFound)
	return nil
}

// isPage reports whether a path belongs to the page.
func isPage(path string) bool {
	return path == "/" || path == strings.TrimSuffix(pathUI, "/") || strings.HasPrefix(path, pathUI)
}
