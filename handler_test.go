package weir_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/config"
)

// A worker can't reach the API through the node's own proxy: also where a server of the program's
// own serves it, and the worker has a tunnel, in which the proxy adds no Via.
func TestHandlerThroughTheOwnProxy(t *testing.T) {
	t.Parallel()
	n := start(t, weir.Config{Proxy: "127.0.0.1:0", Limits: []weir.Limit{weir.HostLimit("api.example.com", 5)}})
	plain, secure := httptest.NewServer(n.Handler()), httptest.NewTLSServer(n.Handler())
	defer plain.Close()
	defer secure.Close()
	const put = "PUT /v1/limits/host/api.example.com HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		"Content-Length: 17\r\n\r\n{\"connections\":9}"
	for _, s := range []*httptest.Server{plain, secure} {
		at := s.Listener.Addr().(*net.TCPAddr)
		for _, way := range []string{"directly", "by CONNECT", "by SOCKS5"} {
			to := n.ProxyURL().Host
			if way == "directly" {
				to = at.String()
			}
			c, err := net.Dial("tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			switch way {
			case "by CONNECT":
				fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", at)
				if resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
					t.Fatalf("CONNECT: %v, %v", resp, err)
				}
			case "by SOCKS5":
				hello := []byte{5, 1, 0, 5, 1, 0, 1}
				hello = append(append(hello, at.IP.To4()...), byte(at.Port>>8), byte(at.Port))
				got := make([]byte, 12)
				if _, err := c.Write(hello); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got[:4], []byte{5, 0, 5, 0}) {
					t.Fatalf("SOCKS5: %x, %v", got, err)
				}
			}
			if s == secure {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			for range 2 { // on one connection
				if _, err := io.WriteString(c, put); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				through := way != "directly"
				if resp.StatusCode == 200 == through || through != strings.Contains(string(body), "through_proxy") {
					t.Errorf("%s %s: %s %s", s.URL, way, resp.Status, body)
				}
				if through {
					break // a refusal before the body was read ends the connection
				}
			}
		}
	}
}

// A program changes the limits of its own node without a token, also where only one for reading is
// set, which others need.
func TestLimitsNeedNoToken(t *testing.T) {
	t.Parallel()
	for _, set := range []func(*config.Config){
		func(c *config.Config) { c.API.ReadToken = "reads" },
		func(c *config.Config) { c.API.Token, c.API.ReadToken = "writes", "reads" },
	} {
		n := start(t, weir.Config{Settings: set})
		if err := n.Limits().Set(t.Context(), weir.HostLimit("a.example", 1)); err != nil {
			t.Error(err)
		}
		if _, err := n.Limits().Get(t.Context(), "", "a.example"); err != nil {
			t.Error(err)
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/v1/limits", nil))
		if w.Code != http.StatusUnauthorized {
			t.Errorf("without a token, the handler answers %d %s", w.Code, w.Body)
		}
	}
}

// Writes that are under way while the node closes end with it: by Limits and by the handler.
func TestWritesEndWithTheNode(t *testing.T) {
	t.Parallel()
	n, err := weir.Start(t.Context(), weir.Config{})
	if err != nil {
		t.Fatal(err)
	}
	handler := n.Handler()
	var writers sync.WaitGroup
	began := make(chan struct{}, 16)
	write := func(f func(i int) error) {
		writers.Go(func() {
			for i := 0; ; i++ {
				if err := f(i); err != nil {
					if !errors.Is(err, weir.ErrClosed) {
						t.Errorf("a write after the node's end: %v", err)
					}
					return
				}
				if i == 0 {
					began <- struct{}{}
				}
			}
		})
	}
	for range cap(began) / 2 {
		write(func(i int) error { return n.Limits().Set(context.Background(), weir.KeyLimit("k", int64(i))) })
		write(func(i int) error {
			body := fmt.Sprintf(`{"connections":%d}`, i)
			r := httptest.NewRequest(http.MethodPut, "http://localhost/v1/limits/key/k", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			if handler.ServeHTTP(w, r); w.Code != http.StatusOK {
				return fmt.Errorf("%w: %d", weir.ErrClosed, w.Code)
			}
			return nil
		})
	}
	for range cap(began) {
		<-began
	}
	if err := n.Close(ended()); err != nil {
		t.Error(err)
	}
	closed := time.Now()
	writers.Wait()
	if took := time.Since(closed); took > 2*time.Second {
		t.Errorf("writes went on for %v after the node's end", took)
	}
}
