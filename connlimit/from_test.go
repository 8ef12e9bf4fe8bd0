package connlimit_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/weirproxy/weir/connlimit"
)

// The blocks of docs/from.md and docs/servers.md.

// hello greets, and is done when the client is.
func hello(conn net.Conn) {
	fmt.Fprintln(conn, "hello")
	io.Copy(io.Discard, conn)
}

func loopback() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return l
}

// greetings dials n times and returns what each connection is greeted with.
func greetings(addr net.Addr, n int) (all []string) {
	for range n {
		conn, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		greeting := "refused"
		fmt.Fscan(conn, &greeting)
		all = append(all, greeting)
	}
	return all
}

func Example_goConnlimitAccept() {
	listener := loopback()
	defer listener.Close()
	// quote: go-connlimit-accept
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{PerClient: connlimit.AtMost(2)},
	})
	if err != nil {
		log.Fatal(err)
	}

	serve := func(conn net.Conn) {
		defer conn.Close()
		free, err := limiter.Accept(conn)
		if err != nil {
			return
		}
		defer free()
		hello(conn)
	}
	// end quote
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	fmt.Println(greetings(listener.Addr(), 3))
	// Output: [hello hello refused]
}

func Example_goConnlimitServer() {
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{Networks: []connlimit.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), PerClient: connlimit.AtMost(0)}}},
	})
	if err != nil {
		panic(err)
	}
	test := httptest.NewUnstartedServer(http.NotFoundHandler())
	server := test.Config
	// quote: go-connlimit-server
	limiter.Guard(server)
	// end quote
	test.StartTLS()
	defer test.Close()
	resp, err := test.Client().Get(test.URL)
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 429 Too Many Requests
}

func Example_maxConnections() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	// quote: middleware
	limiter, err := connlimit.New(connlimit.Config{
		Requests:       connlimit.Limits{Total: connlimit.AtMost(1000), PerClient: connlimit.AtMost(10)},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, // your proxies, if there are any
		RetryAfter:     time.Minute,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { // if the default will not do
			http.Error(w, `{"error":"too many requests at once"}`, http.StatusServiceUnavailable)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := limiter.Handler(mux)

	current := limiter.Stats().Requests.Open
	// end quote
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(current, w.Body)
	// Output: 0 hello
}

func Example_netutil() {
	inner := loopback()
	// quote: netutil
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{Total: connlimit.AtMost(100), Wait: 10 * time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}
	listener := limiter.Listener(inner)
	// end quote
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			go func() { defer conn.Close(); hello(conn) }()
		}
	}()
	fmt.Println(greetings(listener.Addr(), 1))
	// Output: [hello]
}

func Example_server() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	listener := loopback()
	// quote: server
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{
			Total:     connlimit.AtMost(10_000),
			PerClient: connlimit.AtMost(100),
			Networks: []connlimit.Network{
				{Prefix: netip.MustParsePrefix("10.0.0.0/8")},                                             // ours: no cap of its own
				{Prefix: netip.MustParsePrefix("192.0.2.0/24"), PerClient: connlimit.AtMost(0)},           // blocked
				{Prefix: netip.MustParsePrefix("2001:db8::/32"), Total: connlimit.AtMost(500)},            // all of it together
				{Prefix: netip.MustParsePrefix("2001:db8:0:1::/64"), PerClient: connlimit.AtMost(10_000)}, // the longest wins
			},
		},
		Requests: connlimit.Limits{PerClient: connlimit.AtMost(20), Wait: time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: limiter.Handler(mux)}
	limiter.Guard(server)
	// end quote
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + listener.Addr().String())
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

func Example_readme() {
	mux := http.NewServeMux()
	// quote: readme
	limiter, err := connlimit.New(connlimit.Config{
		Connections: connlimit.Limits{Total: connlimit.AtMost(10_000), PerClient: connlimit.AtMost(100)},
		Requests:    connlimit.Limits{PerClient: connlimit.AtMost(20)},
	})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: limiter.Handler(mux)}
	limiter.Guard(server) // 429 or 503 for connections over a limit, over TLS and HTTP/2 as well
	// end quote
	w := httptest.NewRecorder()
	server.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code)
	// Output: 404
}
