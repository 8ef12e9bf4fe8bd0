package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/api"
)

// followed runs weir events against a node that answers each request in turn, and ends it with the
// last.
func followed(t *testing.T, p *process, answers ...http.HandlerFunc) (code int, stdout, stderr string, asked int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++ // the requests come one after the other
		if asked == len(answers) {
			defer stop()
		}
		answers[min(asked, len(answers))-1](w, r)
	}))
	var out, errs bytes.Buffer
	code = run(ctx, p, []string{"events", "--types", "fence", "--addr", s.URL}, &out, &errs)
	s.Close()
	return code, out.String(), errs.String(), asked
}

// quietly begins a stream without an event, and ends it.
func quietly(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", api.MediaEvents)
	fmt.Fprint(w, "retry: 1000\n\n")
}

func fencing(w http.ResponseWriter, r *http.Request) {
	quietly(w, r)
	fmt.Fprint(w, "id: 1\nevent: fence\ndata: {\"type\":\"fence\",\"text\":\"a fenced\"}\n\n")
}

// TestQuietStreamIsFollowed: a stream that ends before any event came is lost as well as any other.
func TestQuietStreamIsFollowed(t *testing.T) {
	code, stdout, stderr, asked := followed(t, testProcess(), quietly, fencing, quietly)
	if code != 0 || asked != 3 || !strings.Contains(stdout, "a fenced") || strings.Count(stderr, "connecting again") != 2 {
		t.Errorf("exit %d, %d times, %q %q", code, asked, stdout, stderr)
	}
}

// TestAddressOfAnotherService: what answers 200, but is not weir, ends the command at once.
func TestAddressOfAnotherService(t *testing.T) {
	p := testProcess()
	p.tick = time.Hour // it must not connect again
	page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
	code, _, stderr, asked := followed(t, p, page, page)
	if code != 1 || asked != 1 || !strings.Contains(stderr, "does not answer as weir does") {
		t.Errorf("exit %d, %d times, %q", code, asked, stderr)
	}
}

// TestRefusalOfALostStream: one that passes with a restart is waited for; any other ends the
// command, and so does each of the first connection.
func TestRefusalOfALostStream(t *testing.T) {
	stopping := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	forbidden := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
	code, stdout, stderr, asked := followed(t, testProcess(), quietly, stopping, fencing, quietly)
	if code != 0 || asked != 4 || !strings.Contains(stdout, "a fenced") {
		t.Errorf("a node that stops: exit %d, %d times, %q %q", code, asked, stdout, stderr)
	}
	for _, answers := range [][]http.HandlerFunc{{stopping}, {forbidden}, {quietly, forbidden}} {
		want := len(answers)
		if code, _, stderr, asked := followed(t, testProcess(), append(answers, quietly)...); code != 1 || asked != want {
			t.Errorf("exit %d, %d times, want %d: %q", code, asked, want, stderr)
		}
	}
}
