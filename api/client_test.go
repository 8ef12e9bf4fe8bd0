package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestClientAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"": DefaultAddr, "localhost:1": "http://localhost:1", "https://weir.example/": "https://weir.example", "http://[::1]:8081": "http://[::1]:8081",
	} {
		c, err := NewClient(addr, "", nil)
		if err != nil || c.Addr() != want {
			t.Errorf("%q: %v %v", addr, c, err)
		}
	}
	for _, addr := range []string{"ftp://x", "http://", "http://x/v1", "http://x?y=1", "http://x:port", "%%"} {
		if _, err := NewClient(addr, "", nil); err == nil {
			t.Errorf("%q is taken", addr)
		}
	}
}

// Something else may listen where the node should: what it says is an error, not a value.
func TestNotWeir(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{{200, "<html>"}, {502, "bad gateway"}, {302, ""}, {404, `{"status":404}`}} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		}))
		client, err := NewClient(srv.URL, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err := client.Status(t.Context())
		var p *Problem
		if err == nil || c.status != 200 && (!errors.As(err, &p) || p.Status != c.status) {
			t.Errorf("%+v: %+v %v", c, st, err)
		}
		client.CloseIdle()
		srv.Close()
	}
}
