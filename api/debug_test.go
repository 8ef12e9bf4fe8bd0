package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What has come before the context ends is kept.
func TestFetchThatIsCutOff(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("so far"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer endless.Close()
	c, _ := NewClient(endless.URL, "", nil)
	defer c.CloseIdle()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got bytes.Buffer
	err := c.Fetch(ctx, "/", writerFunc(func(b []byte) (int, error) { cancel(); return got.Write(b) }))
	if !errors.Is(err, context.Canceled) || got.String() != "so far" {
		t.Errorf("%v: %s", err, &got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
