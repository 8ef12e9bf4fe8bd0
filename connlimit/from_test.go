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

// visitor is a connection from an address of the caller's choice.
type visitor struct {
	net.Conn
	addr net.Addr
}

func (v visitor) RemoteAddr() net.Addr { return v.addr }

func visitorFrom(ip string) net.Conn { return visitor{addr: &net.TCPAddr{IP: net.ParseIP(ip)}} }

// occupy takes n slots for connections from ip, and returns a func that frees one, and what becomes
// of one more.
func occupy(limiter *connlimit.Limiter, ip string, n int) (free func(), err error) {
	for range n {
		slot, err := limiter.Admit(visitorFrom(ip))
		if err != nil {
			return nil, fmt.Errorf("too early: %w", err)
		}
		free = slot.Free
	}
	_, err = limiter.Admit(visitorFrom(ip))
	return free, err
}

// ask has a handler answer a request from ip, and returns the answer.
func ask(h http.Handler, path, ip string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
	r.RemoteAddr = ip + ":4711"
	h.ServeHTTP(w, r)
	return w
}

// holding is a handler that holds requests until it is released.
type holding struct{ entered, release chan struct{} }

func newHolding() holding { return holding{make(chan struct{}), make(chan struct{})} }

func (h holding) ServeHTTP(http.ResponseWriter, *http.Request) {
	h.entered <- struct{}{}
	<-h.release
}

// hold has n requests for /hold from ip in hand when it returns.
func (h holding) hold(by http.Handler, ip string, n int) {
	for range n {
		go ask(by, "/hold", ip)
		<-h.entered
	}
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
	mux, held := http.NewServeMux(), newHolding()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	mux.Handle("/hold", held)
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
	fmt.Println(current, ask(handler, "/", "192.0.2.1").Body)

	held.hold(handler, "192.0.2.1", 10)
	w := ask(handler, "/", "192.0.2.1")
	fmt.Println("the 11th of a client:", w.Code, w.Header().Get("Retry-After"), w.Body)
	for i := range 99 {
		held.hold(handler, fmt.Sprintf("198.51.100.%d", i), 10)
	}
	fmt.Print("the 1001st: ", ask(handler, "/", "203.0.113.1").Code)
	close(held.release)
	// Output:
	// 0 hello
	// the 11th of a client: 503 60 {"error":"too many requests at once"}
	//
	// the 1001st: 503
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
	free, err := occupy(limiter, "192.0.2.1", 100)
	fmt.Println(err)
	go func() {
		for limiter.Stats().Connections.Waiting == 0 {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("one waits")
		free()
	}()
	fmt.Println(greetings(listener.Addr(), 1))
	// Output:
	// connlimit: the server is at its limit of 100 connections
	// one waits
	// [hello]
}

func Example_server() {
	mux, held := http.NewServeMux(), newHolding()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	mux.Handle("/hold", held)
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
	get := func() string {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://" + listener.Addr().String())
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		return resp.Status
	}
	fmt.Println(get())
	for limiter.Stats().Connections.Open > 0 { // its connection
		time.Sleep(time.Millisecond)
	}
	_, err = occupy(limiter, "127.0.0.1", 100)
	fmt.Println(err)
	fmt.Println(get())
	_, err = occupy(limiter, "192.0.2.1", 0)
	fmt.Println(err)
	_, err = occupy(limiter, "2001:db8:0:2::1", 500)
	fmt.Println(err)
	_, err = occupy(limiter, "2001:db8:0:1::1", 101)
	fmt.Println("more than 100 in the longest network:", err)

	held.hold(server.Handler, "198.51.100.1", 20)
	begun := time.Now()
	code := ask(server.Handler, "/", "198.51.100.1").Code
	fmt.Println("the 21st request:", code, "after", time.Since(begun).Truncate(time.Second))
	close(held.release)
	// Output:
	// 200 OK
	// connlimit: client 127.0.0.1 is at its limit of 100 connections
	// 429 Too Many Requests
	// connlimit: client 192.0.2.1 is blocked: its limit is 0 connections
	// connlimit: network 2001:db8::/32 is at its limit of 500 connections
	// more than 100 in the longest network: <nil>
	// the 21st request: 429 after 1s
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
