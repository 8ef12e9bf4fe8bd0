package e2e

import (
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/weirproxy/weir/e2e/upstream"
)

// viaProxy is the environment that clients understand, without exceptions.
func viaProxy(n *node) []string {
	url := "http://" + n.proxy
	return []string{
		"HTTP_PROXY=" + url, "HTTPS_PROXY=" + url, "ALL_PROXY=" + url, "NO_PROXY=",
		"http_proxy=" + url, "https_proxy=" + url, "all_proxy=" + url, "no_proxy=",
	}
}

// secure starts an upstream that speaks TLS.
func (c *cluster) secure(t testing.TB) host {
	t.Helper()
	name := c.address()
	config, err := upstream.SelfSigned(name)
	if err != nil {
		t.Fatal(err)
	}
	up, err := upstream.Start(net.JoinHostPort(name, "0"), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	return host{Server: up, name: name, target: net.JoinHostPort(name, strconv.Itoa(up.Port()))}
}

// curl goes through a node by its environment alone, plain and with TLS, and is refused as a person
// can read.
func curl(t *testing.T, c *cluster) {
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Log("curl is not on this machine (Debian: apt-get install curl): not checked")
		return
	}
	thirdParty(t, c, func(n *node, url string) (out string, code int) {
		stdout, stderr, code := run(t, viaProxy(n), path, "-sS", "-k", "-i", "--max-time", "10", url)
		return stdout + stderr, code
	})
}

// urllibProgram takes one URL, prints what came back, and exits 1 where it was no 200.
const urllibProgram = `
import ssl, sys, urllib.request, urllib.error
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10, context=ssl._create_unverified_context()) as r:
        print(r.status, r.read().decode())
except urllib.error.HTTPError as e:
    print(e.code, e.headers, e.read().decode()); sys.exit(1)
except urllib.error.URLError as e:
    print(e.reason); sys.exit(1)
`

// thirdParty checks a client, fetch, that prints a response and exits 0 for success.
func thirdParty(t *testing.T, c *cluster, fetch func(n *node, url string) (out string, code int)) {
	t.Helper()
	for _, test := range []struct {
		scheme string
		up     host
	}{{"http", c.upstream(t)}, {"https", c.secure(t)}} {
		c.setLimit(t, test.up.name, connections(1))
		url := test.scheme + "://" + test.up.target + "/close?ms=1"
		for i, n := range c.nodes {
			if out, code := fetch(n, url); code != 0 && !strings.Contains(out, "200") || !strings.Contains(out, "held") {
				t.Errorf("%s through node %s: exit code %d:\n%s", url, n.name, code, out)
			}
			if accepted := test.up.Stats().Accepted; accepted != uint64(i+1) {
				t.Errorf("%s: %d upstream connections after %d fetches", test.scheme, accepted, i+1)
			}
		}
		if admitted := c.nodes[0].http.host(t, test.up.name).Admitted; admitted != 3 {
			t.Errorf("%s: the nodes admitted %d connections; want 3, all of them through the proxies", test.scheme, admitted)
		}
		c.awaitUse(t, test.up, 0)
		held := c.nodes[0].open(t, test.up.target)
		if out, code := fetch(c.nodes[1], url); !strings.Contains(out, "503") || (test.scheme == "https" && code == 0) {
			t.Errorf("%s over the limit: exit code %d:\n%s", url, code, out)
		}
		end(t, held)
		test.up.peakAtMost(t, 1)
	}
}

// weirExec runs a command with the node's proxy in its environment.
func weirExec(t *testing.T, c *cluster) {
	n := c.nodes[1]
	stdout, stderr, code := n.weir(t, "exec", "--", "env")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		if !strings.Contains(stdout, name+"=http://"+n.proxy) {
			t.Errorf("%s is not node %s's proxy in:\n%s%s", name, n.name, grep(stdout, "proxy"), stderr)
		}
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if !strings.Contains(stdout, name+"=") {
			t.Errorf("%s is not set in:\n%s", name, grep(stdout, "proxy"))
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, _, code := n.weir(t, "exec", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("a command that exits 7: weir exec exits %d", code)
	}
}

// grep keeps the lines that contain word, in either case.
func grep(text, word string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if strings.Contains(strings.ToLower(line), word) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
