package connlimit_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/weirproxy/weir/connlimit"
)

// A server of any protocol: each client may have two connections.
func ExampleLimiter_Listener() {
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{PerClient: connlimit.AtMost(2)},
	})
	if err != nil {
		panic(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener := limiter.Listener(inner)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() // frees its slot
				fmt.Fprintln(conn, "hello")
				io.Copy(io.Discard, conn)
			}()
		}
	}()

	for range 3 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		var greeting string
		if _, err := fmt.Fscan(conn, &greeting); err != nil {
			greeting = "refused"
		}
		fmt.Println(greeting)
	}
	// Output:
	// hello
	// hello
	// refused
}

// An HTTP server tells those clients why that have too many connections.
func ExampleLimiter_Guard() {
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{
			Total:    connlimit.AtMost(10_000),
			Networks: []connlimit.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), PerClient: connlimit.AtMost(1)}},
		},
	})
	if err != nil {
		panic(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello\n")
	}))
	limiter.Guard(server.Config) // an *http.Server
	server.StartTLS()
	defer server.Close()

	for range 2 {
		client := &http.Client{Transport: server.Client().Transport.(*http.Transport).Clone()}
		defer client.CloseIdleConnections()
		resp, err := client.Get(server.URL)
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Print(resp.StatusCode, " ", resp.Header.Get("Retry-After"), " ", string(body))
	}
	// Output:
	// 200  hello
	// 429 1 You have too many connections open at once: the limit is 1. Close some, or try again later.
}

// Requests behind a proxy, with an answer of the program's own.
func ExampleLimiter_Handler() {
	limiter, err := connlimit.New(connlimit.Config{
		Requests: connlimit.Limits{
			Total:     connlimit.AtMost(500),
			PerClient: connlimit.AtMost(10),
			Networks:  []connlimit.Network{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), PerClient: connlimit.AtMost(0)}},
		},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprintf(w, "%v", err)
		},
	})
	if err != nil {
		panic(err)
	}
	handler := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
	}))

	for _, forwarded := range []string{"198.51.100.1", "198.51.100.1, 203.0.113.5"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.1:4711"
		r.Header.Set("X-Forwarded-For", forwarded)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// 200 hello
	// 429 connlimit: client 203.0.113.5 is blocked: its limit is 0 requests
}

// A limit is changed while the server runs.
func ExampleLimiter_SetConfig() {
	limiter, err := connlimit.New(connlimit.Config{})
	if err != nil {
		panic(err)
	}
	config := limiter.Config()
	config.Connections.Total = connlimit.AtMost(-1)
	fmt.Println(limiter.SetConfig(config))
	config.Connections.Total = connlimit.AtMost(100)
	fmt.Println(limiter.SetConfig(config))
	// Output:
	// connlimit: invalid Config: Connections.Total is AtMost(-1): use 0, which blocks, to 2147483647; leave it out for no cap
	// <nil>
}
