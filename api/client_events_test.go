package api

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A stream that breaks off, and one that is not weir's.
func TestReadNoticesEnds(t *testing.T) {
	for body, want := range map[string]error{
		"event: leader\ndata: {\"node\":\"a\"}\n\n": io.ErrUnexpectedEOF,
		"event: x\ndata: 1\n\n:\n\nid: 1\n\n":       io.ErrUnexpectedEOF,
	} {
		if err := readNotices(strings.NewReader(body), func() {}, func(Notice) bool { return true }); !errors.Is(err, want) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if err := readNotices(strings.NewReader("event: use\ndata: 1\n\n"), func() {}, func(Notice) bool { return true }); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a use that is a number: %v", err)
	}
}

// TestSilentStreamIsGivenUp: a node that is frozen keeps its connections open, and would be waited
// for for ever.
func TestSilentStreamIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, frozen := io.Pipe()
		defer frozen.Close()
		transport := tripper(func(r *http.Request) (*http.Response, error) {
			go func() {
				<-r.Context().Done()
				frozen.CloseWithError(r.Context().Err())
			}()
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}, nil
		})
		c, err := NewClient("", "", transport)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for _, err := range c.Events(t.Context(), EventQuery{}) {
			if !errors.Is(err, errSilent) || time.Since(began) != streamSilence {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
	})
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
