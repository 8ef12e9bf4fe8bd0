package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// TestExecSparesTheAPI runs real clients in the environment that weir exec makes: what they send to
// the node's own API must not go through its proxy, in whatever way the API's address is written.
func TestExecSparesTheAPI(t *testing.T) {
	clients := map[string][]string{
		"curl": {"curl", "-sS", "-m", "10"},
		"wget": {"wget", "-qO-", "-T", "10", "-t", "1"},
		"Python's urllib": {"python3", "-c",
			"import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"},
		"Python's requests": {"python3", "-c",
			"import sys\ntry:\n import requests\nexcept ImportError:\n sys.exit(77)\nprint(requests.get(sys.argv[1], timeout=10).text)"},
	}
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Logf("%s: %v", listen, err)
			continue
		}
		api := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "the API")
		})}}
		api.Start()
		t.Cleanup(api.Close)
		var proxied atomic.Int64
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			proxied.Add(1)
			http.Error(w, "the proxy", http.StatusServiceUnavailable)
		}))
		t.Cleanup(proxy.Close)
		urls := []string{api.URL}
		for name, argv := range clients {
			for _, url := range urls {
				t.Run(name+" "+url[:strings.LastIndex(url, ":")], func(t *testing.T) {
					run := func(target string) (string, error) {
						cmd := exec.Command(argv[0], append(argv[1:len(argv):len(argv)], target)...)
						cmd.Env = proxyEnv(os.Environ(), proxy.URL, api.URL)
						out, err := cmd.CombinedOutput()
						return string(out), err
					}
					if _, err := exec.LookPath(argv[0]); err != nil {
						untested(t, argv[0]+" is not installed")
					}
					before := proxied.Load()
					out, err := run(url)
					if e, ok := err.(*exec.ExitError); ok && e.ExitCode() == 77 {
						untested(t, "python3 has no module requests")
					}
					if err != nil || !strings.Contains(out, "the API") || proxied.Load() != before {
						t.Errorf("%v, %d requests through the proxy:\n%s", err, proxied.Load()-before, out)
					}
					if out, err := run("http://upstream.example/"); proxied.Load() == before { // some take its 503 for success
						t.Errorf("another host does not go through the proxy: %v\n%s", err, out)
					}
				})
			}
		}
	}
}

// untested ends a test that lacks a client: root could have installed it, so there it is a failure.
func untested(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Fatalf("%s: run make needs", why)
	}
	t.Skipf("*** NOT TESTED: %s: make needs says what to install ***", why)
}
