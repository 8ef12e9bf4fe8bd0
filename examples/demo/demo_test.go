package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirproxy/weir/e2e/upstream"
)

// The test binary is also the weir that the tests run: with this variable it plays a node.
const roleVariable = "DEMO_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		os.Exit(playNode(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// fakeNode is a fake node's file.
type fakeNode struct{ Name, Proxy, API, Fail string }

// playNode serves as much of a node as the demo uses, until SIGTERM.
func playNode(args []string) int {
	var n fakeNode
	text, err := os.ReadFile(args[len(args)-1])
	if err == nil {
		err = json.Unmarshal(text, &n)
	}
	if err != nil || len(args) != 3 || args[0] != "agent" || args[1] != "--config" {
		fmt.Println("bad start", args, err)
		return 1
	}
	fmt.Println("starting", n.Name)
	if n.Fail != "" {
		fmt.Println(n.Fail)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	ln, err := net.Listen("tcp", n.Proxy)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go passAll(ln)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /die", func(http.ResponseWriter, *http.Request) { os.Exit(7) })
	mux.HandleFunc("PUT /v1/limits/host/127.0.0.1", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/hosts/127.0.0.1", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"limit":4,"waiting":2,"nodes":{"b":{"in_use":3},"a":{"in_use":1}}}`)
	})
	go func() { fmt.Println(http.ListenAndServe(n.API, mux)) }()
	<-signals
	fmt.Print("stopped ", n.Name)
	return 0
}

// passAll answers each CONNECT and passes its bytes on.
func passAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			req, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", req.Host)
			if err != nil {
				return
			}
			defer func() { _ = up.Close() }()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(c, up)
		}()
	}
}

// scene is a demo under way, of fake nodes.
type scene struct {
	signals chan os.Signal
	done    chan error
	out     string // path of what it wrote
	dir     string
	members []member
}

// play runs the demo with two fake nodes. fail makes the second one end at its start, saying that.
func play(t *testing.T, o options, fail string) *scene {
	t.Helper()
	t.Setenv(roleVariable, "node")
	s := &scene{signals: make(chan os.Signal, 2), done: make(chan error, 1), dir: t.TempDir()}
	var members []member
	for _, name := range []string{"a", "b"} {
		m := member{name, freeAddr(t), freeAddr(t)}
		f := fakeNode{Name: name, Proxy: m.proxy, API: m.api}
		if name == "b" {
			f.Fail = fail
		}
		text, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, name+".hcl"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	s.members = members
	s.out = filepath.Join(s.dir, "out")
	out, err := os.Create(s.out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	o.weir, o.dir = os.Args[0], s.dir
	go func() { s.done <- run(o, members, out, false, s.signals) }()
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// awaitText waits until the demo has written text, and returns all.
func (s *scene) awaitText(t *testing.T, text string) string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		got, err := os.ReadFile(s.out)
		if err == nil && strings.Contains(string(got), text) {
			return string(got)
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in:\n%s", text, got)
		}
	}
}

func TestClusterPrefixesLogsAndStopsAll(t *testing.T) {
	s := play(t, options{}, "")
	s.awaitText(t, "all 2 nodes are ready\n")
	s.signals <- syscall.SIGINT
	if err := <-s.done; err != nil {
		t.Errorf("it ends with %v", err)
	}
	for _, line := range []string{"a | starting a\n", "b | starting b\n", "a | stopped a\n", "b | stopped b\n"} {
		s.awaitText(t, line)
	}
}

// TestClusterSaysWhereItIsAndWhoDies: the addresses stand on the screen, and so does the end of
// each node.
func TestClusterSaysWhereItIsAndWhoDies(t *testing.T) {
	s := play(t, options{}, "")
	s.awaitText(t, "all 2 nodes are ready\n")
	for i, left := range []string{"1 of 2 nodes are left\n", "0 of 2 nodes are left\n"} {
		m := s.members[1-i] // the second first
		s.awaitText(t, "  "+m.name+": proxy http://"+m.proxy+", page http://"+m.api+"/ui/\n")
		if res, err := http.Post("http://"+m.api+"/die", "", nil); err == nil {
			_ = res.Body.Close()
		}
		s.awaitText(t, "node "+m.name+" has ended with exit code 7; "+left)
	}
	if err := <-s.done; err == nil || !strings.Contains(err.Error(), "all nodes have ended") {
		t.Errorf("it ends with %v", err)
	}
}

func TestNodeThatCannotStartEndsTheDemo(t *testing.T) {
	s := play(t, options{}, "the port is taken")
	err := <-s.done
	if err == nil || !strings.Contains(err.Error(), "node b ended with exit code 1") {
		t.Errorf("it ends with %v; want node b's exit code", err)
	}
	s.awaitText(t, "b | the port is taken\n")
}

func TestLoadShowsTheLine(t *testing.T) {
	s := play(t, options{load: true, limit: 4, workers: 4, hold: time.Millisecond}, "")
	s.awaitText(t, "limit 4 | upstream ")
	s.awaitText(t, " | a 1 b 3 | 2 waiting | ")
	s.signals <- syscall.SIGTERM
	if err := <-s.done; err != nil {
		t.Errorf("it ends with %v", err)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "data", "a.log"))
	if err != nil || string(log) != "starting a\nstopped a" {
		t.Errorf("node a's log is %q, %v", log, err)
	}
}

func TestRender(t *testing.T) {
	four := 4
	last := host{Admitted: 100, Rejected: 50}
	now := host{Limit: &four, Waiting: 7, Admitted: 300, Rejected: 40, Nodes: map[string]use{"b": {3}, "a": {1}}}
	for _, test := range []struct {
		now  host
		want string
	}{
		{now, "limit 4 | upstream 3, peak 4 | a 1 b 3 | 7 waiting | 100/s ok, 0/s refused"},
		{host{}, "limit none | upstream 3, peak 4 |  | 0 waiting | 0/s ok, 0/s refused"},
	} {
		if got := render(upstream.Stats{Open: 3, Peak: 4}, test.now, last, 2*time.Second); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

// The program knows the example nodes' addresses without reading their files.
func TestExamplesMatchTheirFiles(t *testing.T) {
	listen := regexp.MustCompile(`(?s)(proxy|api) \{[^}]*listen\s*=\s*"([^"]+)"`)
	for _, m := range examples {
		text, err := os.ReadFile(filepath.Join("..", "three-nodes", m.name+".hcl"))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, match := range listen.FindAllStringSubmatch(string(text), -1) {
			got[match[1]] = match[2]
		}
		if got["proxy"] != m.proxy || got["api"] != m.api {
			t.Errorf("node %s: the file says %v; the program %+v", m.name, got, m)
		}
	}
}
