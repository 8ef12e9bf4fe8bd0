package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestDrain(t *testing.T) {
	const post, get = "POST /v1/drain", "GET /v1/status"
	started := `{"node":"a","draining":true,"leaving":false,"connections":2}`
	st := func(n int) string { return fmt.Sprintf(`{"node":"a","draining":true,"connections":%d}`, n) }
	f := newFakeAPI(t, map[string][]string{post: {started}, get: {st(2), st(2), st(1), st(0)}})
	code, stdout, stderr := f.weir(testProcess(), "drain")
	if want := "a is draining: 2 connections open\n1 connection open\n0 connections open\ndrained\n"; code != 0 || stdout != want {
		t.Errorf("exit %d %q %q", code, stdout, stderr)
	}
	f = newFakeAPI(t, map[string][]string{post: {started}})
	if code, stdout, _ := f.weir(testProcess(), "drain", "--detach", "--json"); code != 0 || stdout != started+"\n" || len(f.asked) != 1 {
		t.Errorf("exit %d %q, asked %q", code, stdout, f.asked)
	}
	f = newFakeAPI(t, map[string][]string{post: {started}, get: {st(2)}})
	if code, _, stderr := f.weir(testProcess(), "drain", "--timeout", "50ms"); code != 1 || !strings.Contains(stderr, "2 connections still open after 50ms") {
		t.Errorf("exit %d %q", code, stderr)
	}
}

func TestDrainUndo(t *testing.T) {
	const undo = "DELETE /v1/drain"
	f := newFakeAPI(t, map[string][]string{undo: {`{"node":"a","draining":false,"leaving":false,"connections":2}`}})
	if code, stdout, stderr := f.weir(testProcess(), "drain", "--undo"); code != 0 || stdout != "a takes new work: 2 connections open\n" {
		t.Errorf("exit %d %q %q", code, stdout, stderr)
	}
	f = newFakeAPI(t, map[string][]string{undo: {"409|a is leaving"}})
	if code, _, stderr := f.weir(testProcess(), "drain", "--undo"); code != 1 || !strings.Contains(stderr, "a is leaving") {
		t.Errorf("exit %d %q", code, stderr)
	}
	if code, _, stderr := f.weir(testProcess(), "drain", "--undo", "--detach"); code != 2 || !strings.Contains(stderr, "undo") {
		t.Errorf("with --detach: exit %d %q", code, stderr)
	}
	// A command that waits sees that somebody else has ended it.
	f = newFakeAPI(t, map[string][]string{
		"POST /v1/drain": {`{"node":"a","draining":true,"leaving":false,"connections":2}`},
		"GET /v1/status": {`{"node":"a","draining":true,"connections":2}`, `{"node":"a","draining":false,"connections":2}`},
	})
	if code, _, stderr := f.weir(testProcess(), "drain"); code != 1 || !strings.Contains(stderr, "is no longer draining") {
		t.Errorf("ended by somebody else: exit %d %q", code, stderr)
	}
}

// A node has left only if it has said so: one that could not leave stops answering as well.
func TestLeave(t *testing.T) {
	const post, get = "POST /v1/leave", "GET /v1/status"
	started := `{"node":"a","draining":true,"leaving":true,"connections":0}`
	leaving := `{"node":"a","role":"server","leader":"b","leaving":true}`
	left := `{"node":"a","role":"server","leader":"b","leaving":true,"left":true}`
	leaderless := `{"node":"a","role":"server","leader":"","leaving":true}`
	proxy := `{"node":"a","role":"proxy","leader":"b","leaving":true}`
	staying, other := `{"node":"a","leaving":false}`, `{"node":"z","leaving":false}`
	for _, c := range []struct {
		answers []string
		code    int
		want    string
	}{
		{[]string{leaving, left, "503|shutting down", "gone"}, 0, "a has left"},
		{[]string{leaving, left, other}, 0, "a has left"},
		{[]string{proxy, "gone"}, 0, "a has left"},
		{[]string{leaderless, left, "gone"}, 0, "a has left"},
		{[]string{leaving, staying}, 1, "its log says why"},
		{[]string{leaving}, 1, "still runs after"},
		{[]string{left}, 1, "still runs after"},
		{[]string{leaderless, leaderless, "gone"}, 1, "there was no leader to take it out"},
		{[]string{leaving, leaderless, "gone"}, 1, "a has stopped, but may still be in the Raft configuration: weir raft peers"},
		{[]string{leaving, other}, 1, "may still be in the Raft configuration"},
		{[]string{"gone"}, 1, "may still be in the Raft configuration"},
	} {
		f := newFakeAPI(t, map[string][]string{post: {started}, get: c.answers})
		code, stdout, stderr := f.weir(testProcess(), "leave", "--timeout", "300ms")
		if code != c.code || !strings.Contains(stdout+stderr, c.want) || c.code != 0 && strings.Contains(stdout, "has left") {
			t.Errorf("%q: exit %d %q %q", c.answers, code, stdout, stderr)
		}
	}
	f := newFakeAPI(t, map[string][]string{post: {"409|the cluster would lose its quorum"}})
	if code, stdout, stderr := f.weir(testProcess(), "leave"); code != 1 || !strings.Contains(stderr, "lose its quorum") || len(f.asked) != 1 {
		t.Errorf("refused: exit %d %q %q, asked %q", code, stdout, stderr, f.asked)
	}
}
