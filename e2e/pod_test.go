package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/netns"
)

// containerUser is the one that the Dockerfile and the manifests name.
const containerUser = 65532

// pods are containers as the Dockerfile makes them, run as deploy/kubernetes says: each has a
// network address and a root of its own, in which there is nothing but the binary and what is
// mounted, and no rights.
type pods struct {
	*cluster
	net    *netns.Network
	binary []byte
	env    []string
	token  string
	read   string   // the token that can only read
	hosts  []string // files that stand for the cluster's DNS
}

// bearer adds the API's token to each call.
type bearer struct {
	http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// startPods makes a network of members for pods, and one for workers and upstreams.
func startPods(t *testing.T, members ...string) *pods {
	t.Helper()
	if err := netns.Missing(); errors.Is(err, netns.ErrUnavailable) {
		t.Skipf("NOT TESTED: pods: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	network, err := netns.NewNetwork(append([]string{upstreamMember}, members...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	key, stderr, code := run(t, nil, os.Getenv(binaryVariable), "keygen")
	if code != 0 {
		t.Fatalf("weir keygen: %s", stderr)
	}
	p := &pods{
		cluster: &cluster{dir: logDir(t), shape: shape{drain: 30 * time.Second}}, net: network, binary: buildImage(t), token: "the-token", read: "another-token",
		env: []string{"POD_NAMESPACE=weir", "WEIR_GOSSIP_KEY=" + strings.TrimSpace(key)},
	}
	t.Cleanup(func() { p.stop(t) })
	return p
}

// buildStep is the Dockerfile's step that makes the binary.
var buildStep = regexp.MustCompile(`(?m)^RUN (?:.*\\\n)*.*go build(?:.*\\\n)*.*$`)

// buildImage builds the binary as the Dockerfile does, in this machine's directories, and returns
// it.
func buildImage(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	step := strings.TrimPrefix(buildStep.FindString(string(text)), "RUN ")
	step = regexp.MustCompile(`--mount=\S+`).ReplaceAllString(step, "")
	out := t.TempDir()
	if !strings.Contains(step, " /out/weir ") {
		t.Fatalf("the Dockerfile builds no /out/weir: %q", step)
	}
	step = strings.ReplaceAll(step, " /out/weir ", " "+out+"/weir ")
	env := []string{"TARGETOS=linux", "TARGETARCH=" + runtime.GOARCH, "VERSION=v0-image", "COMMIT=0123456789"}
	if stdout, stderr, code := run(t, env, "sh", "-c", "cd .. && "+step); code != 0 {
		t.Fatalf("the Dockerfile's %s: %s%s", step, stdout, stderr)
	}
	binary, err := os.ReadFile(filepath.Join(out, "weir"))
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// TestImageContext: what .dockerignore leaves out is not what the binary is made of.
func TestImageContext(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Split(string(text), "\n")
	deps, stderr, code := run(t, nil, "go", "list", "-deps", "../cmd/weir")
	if code != 0 {
		t.Fatal(stderr)
	}
	const module = "github.com/weirproxy/weir/"
	own := 0
	for dep := range strings.Lines(deps) {
		path, ok := strings.CutPrefix(strings.TrimSpace(dep), module)
		if !ok {
			continue
		}
		own++
		if top, _, _ := strings.Cut(path, "/"); slices.Contains(ignored, top) {
			t.Errorf("package %s is left out of the image's sources", path)
		}
	}
	if own < 5 {
		t.Fatalf("weir is made of %d packages: the list is not understood", own)
	}
}

// add makes a pod with a file of deploy/ for its config; it has no address yet.
func (p *pods) add(t *testing.T, name, config string) *node {
	t.Helper()
	root, err := os.MkdirTemp(p.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("../deploy/kubernetes", config))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		path    string
		mode    os.FileMode
		content []byte
	}{
		{"usr/local/bin/weir", 0o755, p.binary}, {"etc/weir/weir.hcl", 0o644, text},
		{"run/secrets/weir/token", 0o440, []byte(p.token + "\n")}, {"run/secrets/weir/read-token", 0o440, []byte(p.read + "\n")},
	} {
		path := filepath.Join(root, f.path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.content, f.mode), os.Chown(path, 0, containerUser)); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(root, "var/lib/weir")
	if err := errors.Join(os.Chmod(root, 0o755), os.MkdirAll(data, 0o755), os.Chown(data, containerUser, containerUser), os.Chmod(data, 0o700)); err != nil {
		t.Fatal(err)
	}
	n := &node{name: name, binary: "/usr/local/bin/weir", config: "/etc/weir/weir.hcl", logPath: filepath.Join(root, "log"), drain: p.shape.drain}
	p.hosts = append(p.hosts, filepath.Join(root, "etc/hosts"))
	p.nodes = append(p.nodes, n)
	n.dataDir = root
	return n
}

// place gives a pod a member's address, from which its next start is to come.
func (p *pods) place(n *node, member string) {
	m, outside := p.net.Member(member), p.net.Member(upstreamMember)
	n.wrapper = append(m.Enter(), "chroot", fmt.Sprintf("--userspec=%d:%[1]d", containerUser), n.dataDir)
	n.env = append(slices.Clone(p.env), "POD_NAME="+n.name, "POD_IP="+m.Addr().String())
	n.proxy, n.api = m.Addr().String()+":8080", m.Addr().String()+":8081"
	n.dial = func(ctx context.Context, proxy string) (net.Conn, error) {
		return outside.DialContext(ctx, "tcp", proxy)
	}
	n.http = newClient(n.api) // with the pod's address in Host, as kubelet has it
	n.http.http.Transport = bearer{&http.Transport{DisableKeepAlives: true, DialContext: outside.DialContext}, p.token}
}

// resolve makes every pod find the servers of the headless service at the members' addresses.
func (p *pods) resolve(t *testing.T, members ...string) {
	t.Helper()
	text := "127.0.0.1 localhost\n"
	for _, m := range members {
		text += p.net.Member(m).Addr().String() + " weir-nodes\n"
	}
	for _, path := range p.hosts {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// inside runs a command of the container, as kubelet or an operator would.
func (p *pods) inside(t *testing.T, n *node, args ...string) (stdout, stderr string, exitCode int) {
	t.Helper()
	command := append(slices.Clone(n.wrapper), n.binary)
	return run(t, n.env, command[0], append(command[1:], args...)...)
}

// canOnlyRead checks what the token for Prometheus is good for.
func (p *pods) canOnlyRead(t *testing.T, n *node) {
	t.Helper()
	c := newClient(n.api)
	c.http.Transport = bearer{n.http.http.Transport.(bearer).RoundTripper, p.read}
	for _, call := range []struct {
		method, path string
		want         int
	}{{http.MethodGet, "/metrics", http.StatusOK}, {http.MethodPost, "/v1/drain", http.StatusForbidden}} {
		if got, err := c.call(call.method, call.path, "", nil); err != nil || got.status != call.want {
			t.Errorf("%s %s of %s with the token for reading: %v, %v; want %d", call.method, call.path, n.name, got, err, call.want)
		}
	}
}

// TestKubernetes: the configs of deploy/kubernetes make a cluster, in containers without a shell or
// rights, and it lives on when every server comes back under another address, as pods do.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	p := startPods(t, "m0", "m1", "m2", "m3", "m4", "m5", "m6")
	for i := range 3 {
		p.place(p.add(t, fmt.Sprintf("weir-%d", i), "server.hcl"), fmt.Sprintf("m%d", i))
	}
	proxy := p.add(t, "weir-proxy-x7k2p", "proxies/proxy.hcl")
	p.place(proxy, "m6")
	p.resolve(t, "m0", "m1", "m2")
	for _, n := range p.nodes {
		if stdout, stderr, code := p.inside(t, n, "validate", n.config); code != 0 {
			t.Fatalf("weir validate: %s%s", stdout, stderr)
		}
		n.start(t)
	}
	if err := p.awaitReady(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := p.inside(t, proxy, "version"); code != 0 || !strings.Contains(stdout, "weir v0-image\ncommit 0123456789\n") {
		t.Errorf("the image says it is %s%s", stdout, stderr)
	}
	if stdout, stderr, code := p.inside(t, proxy, "status", "--ready"); code != 0 {
		t.Errorf("the health check of a node that is ready: exit code %d: %s%s", code, stdout, stderr)
	}

	for _, n := range p.nodes {
		p.canOnlyRead(t, n)
	}
	up := (&lab{cluster: p.cluster, net: p.net}).upstream(t)
	p.setLimit(t, up.name, connections(4))
	tunnels := slices.Concat(p.nodes[0].openMany(t, up.target, 2), proxy.openMany(t, up.target, 2))
	p.nodes[1].refuse(t, up.target, "connection_limit_reached")
	end(t, tunnels...)

	for i, n := range p.nodes[:3] {
		n.kill(t)
		p.place(n, fmt.Sprintf("m%d", 3+i))
	}
	eventually(t, time.Minute, "the health check of a node without a cluster", func() error {
		if _, stderr, code := p.inside(t, proxy, "status", "--ready"); code != 1 || !strings.Contains(stderr, "no live session") {
			return fmt.Errorf("exit code %d: %s", code, stderr)
		}
		return nil
	})
	p.resolve(t, "m3", "m4", "m5")
	for _, n := range p.nodes[:3] {
		n.start(t)
	}
	if err := p.awaitReady(t, time.Minute); err != nil {
		t.Fatal(err)
	}
	p.nodes[2].openMany(t, up.target, 2)
	proxy.openMany(t, up.target, 2)
	p.nodes[0].refuse(t, up.target, "connection_limit_reached")
	up.peakAtMost(t, 4)
}
