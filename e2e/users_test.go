package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// usersFile is a file of users that a test changes.
type usersFile struct {
	path string
	text string
}

func newUsersFile(t testing.TB) *usersFile {
	return &usersFile{path: filepath.Join(t.TempDir(), "users")}
}

// add appends a user as htpasswd -B does.
func (f *usersFile) add(t testing.TB, name, password string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 5)
	if err != nil {
		t.Fatal(err)
	}
	f.text += name + ":" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n"
	f.write(t, f.text)
}

func (f *usersFile) write(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// site is a plain HTTP server at an address of its own that notes the fields that it gets.
type site struct {
	url, target string

	mu   sync.Mutex
	seen []http.Header
}

func (c *cluster) site(t testing.TB) *site {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(c.address(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{url: "http://" + ln.Addr().String() + "/", target: ln.Addr().String()}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // until Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Header)
	s.mu.Unlock()
	_, _ = io.WriteString(w, "the site says hello\n") // the client may have gone
}

// visits are the requests so far, none of which may carry credentials.
func (s *site) visits(t testing.TB) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.seen {
		if h.Get("Proxy-Authorization") != "" || h.Get("Authorization") != "" {
			t.Errorf("credentials reached the upstream: %v", h)
		}
	}
	return len(s.seen)
}

// curlStatus is the status that a GET through the proxy, or its CONNECT, is answered with.
func curlStatus(t testing.TB, proxy, url string, args ...string) string {
	t.Helper()
	args = append([]string{"-s", "-o", "/dev/null", "-w", "%{http_connect} %{http_code} %{num_connects}", "--max-time", "10", "--noproxy", "", "-x", proxy, url}, args...)
	stdout, _, _ := run(t, nil, "curl", args...)
	return stdout
}

// needCurl says whether curl can be run.
func needCurl(t testing.TB) bool {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("curl is not on this machine (Debian: apt-get install curl): not checked")
		return false
	}
	return true
}

// TestUsers: who has no password gets nowhere, who has one gets through, and nobody else learns it.
func TestUsers(t *testing.T) {
	t.Parallel()
	file := newUsersFile(t)
	file.add(t, "ada", "love lace:1815")
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		n.more = fmt.Sprintf("log {\n  level = \"trace\"\n}\nproxy {\n  users_file = %q\n}\n", file.path)
	}})
	n, up := c.nodes[0], c.site(t)
	if needCurl(t) {
		usersOfCurl(t, n, up)
	}
	usersOfPython(t, n, up)
	tunnel := n.loginWire(t, up.target, "ada", "love lace:1815")
	usersOfAPI(t, n)
	usersReloaded(t, n, up, file)
	tunnel.say(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // it was open all the time
	tunnel.awaitText(t, "the site says hello")
	if up.visits(t) == 0 {
		t.Error("nobody got through")
	}
	log, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"love lace", "love%20lace", base64.StdEncoding.EncodeToString([]byte("ada:love lace:1815")), "Hopper", "Authorization"} {
		if strings.Contains(string(log), secret) {
			t.Errorf("the log has %q: %s", secret, grep(string(log), secret))
		}
	}
	if !strings.Contains(string(log), "user=ada") {
		t.Error("no line names the user")
	}
}

// login is a CONNECT with credentials.
func login(target, user, password string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nProxy-Authorization: Basic " +
		base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n\r\n"
}

// loginWire opens a tunnel on which the test says every byte.
func (n *node) loginWire(t testing.TB, target, user, password string) *wire {
	t.Helper()
	w := n.dialWire(t)
	w.say(t, login(target, user, password))
	w.awaitText(t, "HTTP/1.1 200 ")
	return w
}

func usersOfCurl(t *testing.T, n *node, up *site) {
	proxy := "http://" + n.proxy
	for _, test := range []struct {
		what, get, connect string
		args               []string
	}{
		{"no credentials", "000 407 1", "407 000 1", nil},
		{"a wrong password", "000 407 1", "407 000 1", []string{"-U", "ada:lovelace"}},
		{"an unknown user", "000 407 1", "407 000 1", []string{"-U", "bob:love lace:1815"}},
		{"the password", "000 200 1", "200 200 1", []string{"-U", "ada:love lace:1815"}},
		{"asking first", "000 200 1", "200 200 1", []string{"--proxy-anyauth", "-U", "ada:love lace:1815"}}, // on one connection
	} {
		if got := curlStatus(t, proxy, up.url, test.args...); got != test.get {
			t.Errorf("%s, GET: %s; want %s", test.what, got, test.get)
		}
		if got := curlStatus(t, proxy, up.url, append(test.args, "-p")...); got != test.connect {
			t.Errorf("%s, CONNECT: %s; want %s", test.what, got, test.connect)
		}
	}
	stdout, _, _ := run(t, nil, "curl", "-si", "--max-time", "10", "--noproxy", "", "-x", proxy, up.url)
	for _, want := range []string{`Proxy-Authenticate: Basic realm="weir", charset="UTF-8"`, "Proxy-Status: a; error=http_request_denied;", "http_request_denied: "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the 407 has no %q:\n%s", want, stdout)
		}
	}
}

func usersOfPython(t *testing.T, n *node, up *site) {
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not on this machine (Debian: apt-get install python3): not checked")
		return
	}
	for credentials, want := range map[string]string{"ada:love%20lace%3A1815@": "the site says hello", "ada:wrong@": "407", "": "407"} {
		env := []string{"http_proxy=http://" + credentials + n.proxy, "no_proxy="}
		if stdout, stderr, _ := run(t, env, path, "-c", urllibProgram, up.url); !strings.Contains(stdout, want) {
			t.Errorf("urllib with %q: want %q:\n%s%s", credentials, want, stdout, stderr)
		}
	}
}

// usersOfAPI: the API tells whose the open connections are.
func usersOfAPI(t *testing.T, n *node) {
	var list struct {
		Connections []struct {
			Protocol, User string
		}
	}
	if err := n.http.read("/v1/connections", &list); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range list.Connections {
		found = found || c.Protocol == "connect" && c.User == "ada"
	}
	if !found {
		t.Errorf("no tunnel of ada's: %+v", list.Connections)
	}
}

// usersReloaded: users come and go without a restart, by a reload, and by the file alone; one that
// is broken changes nothing.
func usersReloaded(t *testing.T, n *node, up *site, file *usersFile) {
	head := map[string]string{"Content-Type": "application/json"}
	file.add(t, "grace", "Hopper-1906")
	n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", head)
	end := n.loginWire(t, up.target, "grace", "Hopper-1906")
	_ = end.Close()

	file.write(t, file.text+"joan:cleartext\n")
	a := n.http.must(t, http.StatusUnprocessableEntity, "POST", "/v1/reload", "", head)
	if !strings.Contains(string(a.body), file.path+":3: ") || strings.Contains(string(a.body), "cleartext") {
		t.Errorf("a broken file: %s", a.body)
	}
	n.loginWire(t, up.target, "grace", "Hopper-1906")
	n.signal(t, syscall.SIGHUP)
	n.loginWire(t, up.target, "ada", "love lace:1815")
	if stdout, stderr, code := n.weir(t, "validate", n.config); code != 1 || !strings.Contains(stderr, file.path+":3: ") {
		t.Errorf("weir validate: exit code %d\n%s%s", code, stdout, stderr)
	}

	file.write(t, strings.SplitAfter(file.text, "\n")[0]) // ada alone
	eventually(t, 15*time.Second, "grace is gone", func() error {
		w := n.dialWire(t)
		w.say(t, login(up.target, "grace", "Hopper-1906"))
		w.awaitText(t, "HTTP/1.1 ")
		if strings.HasPrefix(string(w.heard()), "HTTP/1.1 407 ") {
			return nil
		}
		return fmt.Errorf("%.40q", w.heard())
	})
	n.loginWire(t, up.target, "ada", "love lace:1815")
}

// TestOwnPorts: no client reaches a node's own ports through a proxy, nor another node's; other
// ports of the same address are as ever.
func TestOwnPorts(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	up, err := listen("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	for i, n := range c.nodes {
		n.refuse(t, n.api, "destination_ip_prohibited")
		_, port, _ := net.SplitHostPort(n.api)
		n.refuse(t, "localhost:"+port, "destination_ip_prohibited")
		n.refuse(t, "[::ffff:127.0.0.1]:"+port, "destination_ip_prohibited")
		for _, other := range c.nodes {
			eventually(t, 5*time.Second, "node "+n.name+" knows node "+other.name, func() error {
				for _, at := range []string{other.rpc, other.gossip, other.api} {
					tunnel, err := n.try(at)
					if err == nil {
						_ = tunnel.Close()
						return fmt.Errorf("a tunnel to %s", at)
					}
					if !strings.Contains(err.Error(), "destination_ip_prohibited") {
						return err
					}
				}
				return nil
			})
		}
		end(t, n.open(t, up.target))
		w := n.dialWire(t)
		w.say(t, "GET http://"+n.proxy+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		w.awaitText(t, "HTTP/1.1 502 ")
		w.awaitText(t, "error=proxy_loop_detected")
		if i > 0 {
			continue
		}
		n.more = "proxy {\n  allow_cluster_destinations = true\n}\n"
		n.writeConfig(t)
		n.signal(t, syscall.SIGHUP)
		eventually(t, 5*time.Second, "the API is allowed", func() error {
			tunnel, err := n.try(n.api)
			if err == nil {
				return tunnel.Close()
			}
			return err
		})
	}
}
