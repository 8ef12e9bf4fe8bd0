package server

import (
	"bytes"
	"context"
	"io"
	"net/http/httptest"
	"runtime/pprof"
	"strings"
	"testing"
)

// Profiles are for who has shown the token that may do everything, and for nobody where there is
// none.
func TestProfilesNeedTheToken(t *testing.T) {
	for _, c := range []struct {
		cfg    Config
		auth   string
		status int
	}{
		{Config{}, "", 403},
		{Config{}, "Bearer whatever", 403},
		{Config{ReadToken: "looking"}, "", 401},
		{Config{ReadToken: "looking"}, "Bearer looking", 403},
		{Config{Token: "secret", ReadToken: "looking"}, "", 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer wrong", 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer looking", 403},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer secret", 200},
	} {
		a := newBench(t, c.cfg, "a").nodes["a"]
		for _, path := range []string{pathProfiles, pathProfiles + "goroutine", pathProfiles + "%67oroutine", pathProfiles + "heap?gc=true"} {
			w := a.do(try{method: "GET", path: path, header: map[string]string{"Authorization": c.auth}})
			if w.Code != c.status {
				t.Errorf("%+v: %s is answered with %d %s", c, path, w.Code, w.Body)
			}
			if c.status != 200 {
				refused(t, w, c.status, "token")
			}
		}
	}
}

func TestProfiles(t *testing.T) {
	a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
	get := func(path string) *httptest.ResponseRecorder {
		return a.do(try{method: "GET", path: pathProfiles + path, header: map[string]string{"Authorization": "Bearer secret"}})
	}
	list := get("").Body.String()
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		if !strings.Contains(list, name+"\n") {
			t.Errorf("%s is not in %q", name, list)
		}
		w := get(name)
		if gzip := []byte{0x1f, 0x8b}; w.Code != 200 || !bytes.HasPrefix(w.Body.Bytes(), gzip) || w.Header().Get("Content-Type") != profileContentType {
			t.Errorf("%s: %d, %v, %.20q", name, w.Code, w.Header(), w.Body)
		}
	}
	if w := get("goroutine?debug=2"); !strings.Contains(w.Body.String(), "TestProfiles") {
		t.Errorf("goroutines as text: %d %s", w.Code, w.Body)
	}
	if w := get("profile?seconds=1"); w.Code != 200 || w.Body.Len() == 0 {
		t.Errorf("a second of the processor: %d, %d bytes", w.Code, w.Body.Len())
	}
	for path, status := range map[string]int{
		"nothing": 404, "heap?debug=3": 400, "heap?gc=2": 400, "heap?seconds=1": 400, "profile?seconds=0": 400, "profile?seconds=51": 400,
		"profile?seconds=x": 400, "trace?seconds=6": 400, "?x=1": 400,
	} {
		refused(t, get(path), status, "")
	}
	refused(t, a.do(try{method: "DELETE", path: pathProfiles + "heap", header: map[string]string{"Authorization": "Bearer secret"}}), 405, "DELETE")
}

// One recording at a time; and one ends with the request that asked for it.
func TestRecordingsEnd(t *testing.T) {
	a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Fatal(err)
	}
	defer pprof.StopCPUProfile()
	header := map[string]string{"Authorization": "Bearer secret"}
	refused(t, a.do(try{method: "GET", path: pathProfiles + "profile", header: header}), 409, "wait for its end")
	pprof.StopCPUProfile()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost"+pathProfiles+"profile?seconds=50", nil)
	r.Header.Set("Authorization", "Bearer secret")
	a.server.Handler().ServeHTTP(httptest.NewRecorder(), r)
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Errorf("the recording of a request that was given up goes on: %v", err)
	}
}
