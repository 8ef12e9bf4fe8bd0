package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// socksName is the name that the clients ask for. Every machine resolves it, to its own loopback.
const socksName = "localhost"

// TestSOCKS: real clients speak SOCKS5 on the proxy's port, under the limits of the names that they
// ask for, together with HTTP.
func TestSOCKS(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "the site says hello\n") // the client may have gone
	}))
	t.Cleanup(page.Close)
	port := portOf(t, page.Listener.Addr().String())
	t.Run("one count with HTTP", func(t *testing.T) { socksSharesItsCount(t, c, n, port) })
	for name, client := range map[string]func(*testing.T, *node, string) (string, bool){
		"curl": socksCurl, "PySocks": socksPython, "Go": socksGo, "Chromium": socksChromium,
	} {
		t.Run(name, func(t *testing.T) {
			socksClient(t, c, n, func() (string, bool) { return client(t, n, "http://"+socksName+":"+port+"/") })
		})
	}
	t.Run("OpenSSH", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		serveSSH(t, ln, "the server says hello", func() {})
		socksClient(t, c, n, func() (string, bool) { return socksSSH(t, n, ln.Addr().String()) })
	})
	t.Run("a client that resolves names", func(t *testing.T) { socksResolves(t, c, n, page.URL) })
}

func portOf(t testing.TB, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// socksMessage is the greeting and the request for a tunnel to target, as a name.
func socksMessage(target string) (string, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", err
	}
	var number uint16
	if _, err := fmt.Sscan(port, &number); err != nil {
		return "", err
	}
	return "\x05\x01\x00\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + string([]byte{byte(number >> 8), byte(number)}), nil
}

// socksDial opens a tunnel through the node's SOCKS5.
func (n *node) socksDial(t testing.TB, target string) (*wire, string) {
	t.Helper()
	message, err := socksMessage(target)
	if err != nil {
		t.Fatal(err)
	}
	w := n.dialWire(t)
	w.say(t, message)
	eventually(t, wireWithin, "the reply", func() error {
		if len(w.heard()) < 4 {
			return errors.New("nothing yet")
		}
		return nil
	})
	return w, string(w.heard()[2:4])
}

// socksSharesItsCount: of a limit of 2, a CONNECT has one slot and a SOCKS5 tunnel the other.
func socksSharesItsCount(t *testing.T, c *cluster, n *node, port string) {
	const granted, tryAgain = "\x05\x00", "\x05\x01"
	c.setLimit(t, socksName, connections(2))
	target := net.JoinHostPort(socksName, port)
	get := func() (status int) {
		via := &url.URL{Scheme: "http", Host: n.proxy}
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(via), DisableKeepAlives: true}, Timeout: wireWithin}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://" + target + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	var held *load.Tunnel
	eventually(t, wireWithin, "a slot", func() (err error) { held, err = n.try(target); return err })
	t.Cleanup(func() { _ = held.Close() })
	tunnel, reply := n.socksDial(t, target)
	if reply != granted {
		t.Fatalf("the second connection: %q", reply)
	}
	if over, reply := n.socksDial(t, strings.ToUpper(socksName)+".:"+port); reply != tryAgain {
		t.Errorf("SOCKS5 over the limit: %q", reply)
	} else {
		_ = over.Close()
	}
	if status := get(); status != http.StatusServiceUnavailable {
		t.Errorf("GET over the limit: %d", status)
	}
	n.refuse(t, target, "connection_limit_reached")
	if use := n.http.host(t, socksName); use.InUse != 2 {
		t.Errorf("%d connections to %s", use.InUse, socksName)
	}
	var list struct {
		Connections []struct{ Protocol, Host string }
	}
	if err := n.http.read("/v1/connections", &list); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, one := range list.Connections {
		kinds[one.Protocol+" "+one.Host]++
	}
	if kinds["connect "+socksName] != 1 || kinds["socks5 "+socksName] != 1 {
		t.Errorf("connections: %v", kinds)
	}
	_ = tunnel.Close()
	eventually(t, wireWithin, "the slot is free", func() error {
		if use := n.http.host(t, socksName); use.InUse != 1 {
			return fmt.Errorf("%d in use", use.InUse)
		}
		return nil
	})
	if status := get(); status != http.StatusOK {
		t.Errorf("GET under the limit: %d", status)
	}
}

// socksClient checks a client whose fetch returns what it printed, and whether it could be run.
func socksClient(t *testing.T, c *cluster, n *node, fetch func() (string, bool)) {
	c.setLimit(t, socksName, connections(20))
	before := n.http.host(t, socksName).Admitted
	out, ran := fetch()
	if !ran {
		return
	}
	if !strings.Contains(out, "says hello") {
		t.Errorf("it prints:\n%s", out)
	}
	if admitted := n.http.host(t, socksName).Admitted; admitted <= before {
		t.Errorf("%s has admitted %d connections, as before: the client asked for another host", socksName, admitted)
	}
}

func socksCurl(t *testing.T, n *node, target string) (string, bool) {
	if !needCurl(t) {
		return "", false
	}
	stdout, stderr, _ := run(t, nil, "curl", "-sS", "--max-time", "10", "--noproxy", "", "--socks5-hostname", n.proxy, target)
	return stdout + stderr, true
}

func socksPython(t *testing.T, n *node, target string) (string, bool) {
	const program = `
import sys, socks, urllib.parse
u = urllib.parse.urlsplit(sys.argv[2])
host, port = sys.argv[1].split(":")
s = socks.socksocket()
s.set_proxy(socks.SOCKS5, host, int(port), rdns=True)
s.settimeout(10)
s.connect((u.hostname, u.port))
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
print(s.recv(4096), s.recv(4096))
`
	for _, python := range []string{"/usr/bin/python3", "python3"} { // Debian's packages are in the former
		path, err := exec.LookPath(python)
		if err != nil {
			continue
		}
		if _, _, code := run(t, nil, path, "-c", "import socks"); code == 0 {
			stdout, stderr, _ := run(t, nil, path, "-c", program, n.proxy, target)
			return stdout + stderr, true
		}
	}
	t.Log("python3 has no PySocks (Debian: apt-get install python3-socks): not checked")
	return "", false
}

func socksGo(t *testing.T, n *node, target string) (string, bool) {
	via := &url.URL{Scheme: "socks5h", Host: n.proxy}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(via), DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(target)
	if err != nil {
		return err.Error(), true
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprint(string(body), err), true
}

func socksChromium(t *testing.T, n *node, target string) (string, bool) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		stdout, stderr, _ := run(t, nil, path, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(),
			"--proxy-server=socks5://"+n.proxy, "--proxy-bypass-list=<-loopback>", "--dump-dom", target)
		return stdout + stderr, true
	}
	t.Log("there is no Chromium (Debian: apt-get install chromium): not checked")
	return "", false
}

func socksSSH(t *testing.T, n *node, server string) (string, bool) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Log("ssh is not on this machine (Debian: apt-get install openssh-client): not checked")
		return "", false
	}
	nc, err := exec.LookPath("nc")
	if err != nil {
		t.Log("nc is not on this machine (Debian: apt-get install netcat-openbsd): not checked")
		return "", false
	}
	if stdout, stderr, _ := run(t, nil, nc, "-h"); !strings.Contains(stdout+stderr, "-X proxy_protocol") && !strings.Contains(stdout+stderr, "-X") {
		t.Log("nc knows no proxies (Debian: apt-get install netcat-openbsd): not checked")
		return "", false
	}
	stdout, stderr, _ := run(t, nil, ssh, "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(t.TempDir(), "known"),
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ProxyCommand="+nc+" -X 5 -x "+n.proxy+" %h %p",
		"-p", portOf(t, server), "anybody@"+socksName, "greet")
	return stdout + stderr, true
}

// socksResolves: a client that asks for an address is let through, but the log, the status and the
// metrics say so; socks5_names_only refuses it.
func socksResolves(t *testing.T, c *cluster, n *node, target string) {
	if !needCurl(t) {
		return
	}
	curl := func(option string) string {
		stdout, stderr, _ := run(t, nil, "curl", "-sS", "--max-time", "10", "--noproxy", "", option, n.proxy, target)
		return stdout + stderr
	}
	c.setLimit(t, socksName, connections(20))
	for range 2 {
		if out := curl("--socks5"); !strings.Contains(out, "says hello") {
			t.Fatalf("curl prints:\n%s", out)
		}
	}
	var st struct {
		ResolvingClients []struct {
			Client, Destination string
			Requests            int
		} `json:"resolving_clients"`
	}
	if err := n.http.read("/v1/status", &st); err != nil {
		t.Fatal(err)
	}
	if list := st.ResolvingClients; len(list) != 1 || list[0].Client != "127.0.0.1" || list[0].Requests < 2 || "http://"+list[0].Destination != target {
		t.Errorf("the status names %+v", list)
	}
	if n.metrics(t).total("weir_socks5_address_requests_total", "", "").value < 2 {
		t.Error("the metrics do not count the requests")
	}
	if stdout, _, _ := n.weir(t, "status"); !strings.Contains(stdout, "127.0.0.1 ask for addresses") {
		t.Errorf("weir status:\n%s", stdout)
	}
	log, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(log), "a SOCKS5 client asks for an address"); got != 1 {
		t.Errorf("%d lines in the log:\n%s", got, grep(string(log), "socks5"))
	}

	n.more = "proxy {\n  socks5_names_only = true\n}\n"
	n.writeConfig(t)
	n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", map[string]string{"Content-Type": "application/json"})
	if out := curl("--socks5"); strings.Contains(out, "says hello") || !strings.Contains(out, "(2)") {
		t.Errorf("with socks5_names_only, curl prints:\n%s", out)
	}
	c.setLimit(t, socksName, connections(0))
	target = strings.Replace(target, "127.0.0.1", socksName, 1)
	if out := curl("--socks5-hostname"); strings.Contains(out, "says hello") || !strings.Contains(out, "(2)") {
		t.Errorf("under a limit of 0, curl prints:\n%s", out)
	}
}
