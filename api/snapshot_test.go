package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestClientNoticesASnapshotThatBreaksOff: a connection that ends in the middle is an error, not a
// short snapshot.
func TestClientNoticesASnapshotThatBreaksOff(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", MediaSnapshot)
		w.Header().Set(HeaderIndex, "3")
		_, _ = io.WriteString(w, "the beginning")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	c, _ := NewClient(s.URL, "", nil)
	defer c.CloseIdle()
	if _, err := c.SaveSnapshot(context.Background(), io.Discard); err == nil {
		t.Error("no error")
	}
}
