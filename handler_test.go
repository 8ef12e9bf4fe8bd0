package weir_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirproxy/weir"
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
