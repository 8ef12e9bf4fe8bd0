package weir_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir"
)

// What a client's connection has taken of its own bandwidth stays taken: requests to targets in
// turn, and a tunnel after them, don't begin with a full bucket each.
func TestOwnBandwidthIsOfTheClientsConnection(t *testing.T) {
	const rate, burst, requests = 64 << 10, 32 << 10, 2 // each request moves as much as the bucket holds
	for _, direction := range []string{"download", "upload"} {
		t.Run(direction, func(t *testing.T) {
			t.Parallel()
			bandwidth := &weir.Bandwidth{Download: "64KiB", Burst: "32KiB"}
			if direction == "upload" {
				bandwidth = &weir.Bandwidth{Upload: "64KiB", Burst: "32KiB"}
			}
			n := start(t, weir.Config{Proxy: "127.0.0.1:0", Limits: []weir.Limit{{Scope: "connection", Bandwidth: bandwidth}}})
			var hosts []string
			for range 2 {
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if direction == "download" {
						_, _ = io.WriteString(w, strings.Repeat("x", burst))
					}
				}))
				t.Cleanup(s.Close)
				hosts = append(hosts, strings.TrimPrefix(s.URL, "http://"))
			}
			c, err := net.Dial("tcp", n.ProxyURL().Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			content := ""
			if direction == "upload" {
				content = strings.Repeat("x", burst)
			}
			get := func(target, host string) {
				t.Helper()
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", target, host, len(content), content)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("%s: %v", resp.Status, err)
				}
			}
			least := func(since time.Time, moved int) {
				t.Helper()
				want := time.Duration(float64(moved-burst) / rate * float64(time.Second))
				if took := time.Since(since); took < want {
					t.Errorf("%d bytes within %v; at %d/s and %d at once they take %v", moved, took, rate, burst, want)
				}
			}
			begun := time.Now()
			for i := range requests {
				get("http://"+hosts[i%2]+"/", hosts[i%2])
			}
			least(begun, requests*burst)
			fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", hosts[0])
			if resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			get("/", hosts[0]) // heads count in a tunnel
			least(begun, (requests+1)*burst)
		})
	}
}
