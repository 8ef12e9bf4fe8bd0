package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/proc"
)

// stopPatience is how long a node may take to stop in good order: its drain_timeout and something
// for the rest.
const stopPatience = 15 * time.Second

// node is one weir process and what is needed to start it again.
type node struct {
	name, role               string
	proxy, api, rpc, gossip  string   // addresses
	moreProxies              []string // more addresses of the proxy
	config, dataDir, logPath string
	http                     *client
	process                  *proc.Process
	limits                   string // HCL: the inside of the limits block
	ttl, drain               time.Duration
	join                     []string
	expect                   int
	frozen                   bool
	binary                   string   // in place of the one that WEIR_E2E_BIN names
	wrapper                  []string // a command, and its arguments, that becomes the process
	env                      []string
	more                     string    // HCL behind the rest of its config
	onExpiry                 string    // "": close
	clients                  string    // a network that clients may come from; "": the default
	token                    string    // the file that holds the API's; "": none
	dial                     load.Dial // how its proxy is reached; nil: as the machine does
	// dialFrom, where set, is how its proxy is reached from an address.
	dialFrom func(address string) load.Dial
}

const nodeTemplate = `name     = %q
data_dir = %q
role     = %q

cluster {
  rpc    = %q
  gossip = %q
  join   = [%s]
%s}

lease {
  ttl       = %q
  on_expiry = %q
}

proxy {
  listen        = %s
  drain_timeout = %q
%s}

api {
  listen     = %q
  token_file = %q
}

limits {
%s}
`

// writeConfig writes the node's file from its fields.
func (n *node) writeConfig(t testing.TB) {
	t.Helper()
	expect := ""
	if n.expect > 0 {
		expect = fmt.Sprintf("  bootstrap_expect = %d\n", n.expect)
	}
	clients := ""
	if n.clients != "" {
		clients = fmt.Sprintf("  allow_clients = [%q]\n", n.clients)
	}
	proxies := fmt.Sprintf("%q", n.proxy)
	if n.moreProxies != nil {
		proxies = "[" + quoted(append([]string{n.proxy}, n.moreProxies...)) + "]"
	}
	text := fmt.Sprintf(nodeTemplate, n.name, n.dataDir, n.role, n.rpc, n.gossip, quoted(n.join), expect,
		n.ttl, cmp.Or(n.onExpiry, "close"), proxies, n.drain, clients, n.api, n.token, n.limits) + n.more
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// quoted writes the elements of a list in HCL.
func quoted(list []string) string {
	elements := make([]string, len(list))
	for i, e := range list {
		elements[i] = fmt.Sprintf("%q", e)
	}
	return strings.Join(elements, ", ")
}

// start runs the node's process, its log appended to the former's.
func (n *node) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	command := append(slices.Clone(n.wrapper), cmp.Or(n.binary, os.Getenv(binaryVariable)), "agent", "--config", n.config)
	n.process, err = proc.Start(proc.Spec{Name: "node " + n.name, Path: command[0], Args: command[1:], Env: n.env, Output: log})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitReady waits until the node says that it can admit.
func (n *node) awaitReady(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	return eventually(t, within, "node "+n.name+" ready", n.ready)
}

func (n *node) ready() error {
	if !n.process.Running() {
		return fmt.Errorf("the process has ended with exit code %d", n.process.ExitCode())
	}
	a, err := n.http.call("GET", "/readyz", "", nil)
	if err != nil {
		return err
	}
	if a.status != 200 {
		return fmt.Errorf("readyz answers %d: %s", a.status, a.body)
	}
	return nil
}

// kill ends the process with SIGKILL and returns when.
func (n *node) kill(t testing.TB) time.Time {
	t.Helper()
	at := time.Now()
	n.process.Kill()
	return at
}

// terminate sends SIGTERM and waits for the end, which must be exit code 0.
func (n *node) terminate(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGTERM)
	n.awaitExit(t)
}

// awaitExit waits for an end in good order.
func (n *node) awaitExit(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stopPatience)
	defer cancel()
	if code, err := n.process.Wait(ctx); code != 0 || err != nil {
		t.Fatalf("node %s ends with exit code %d, %v; want 0", n.name, code, err)
	}
}

// signal sends sig, and notes whether the process is frozen.
func (n *node) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := n.process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if sig == syscall.SIGSTOP || sig == syscall.SIGCONT {
		n.frozen = sig == syscall.SIGSTOP
	}
}

// try opens a tunnel through the node, waiting for the answer for at most 10 s.
func (n *node) try(target string) (*load.Tunnel, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return load.ConnectBy(ctx, n.dial, n.proxy, target)
}

// open is try where it must succeed.
func (n *node) open(t testing.TB, target string) *load.Tunnel {
	t.Helper()
	tunnel, err := n.try(target)
	if err != nil {
		t.Fatalf("tunnel through node %s to %s: %v", n.name, target, err)
	}
	t.Cleanup(func() { _ = tunnel.Close() })
	return tunnel
}

// openMany opens count tunnels.
func (n *node) openMany(t testing.TB, target string, count int) []*load.Tunnel {
	t.Helper()
	tunnels := make([]*load.Tunnel, count)
	for i := range tunnels {
		tunnels[i] = n.open(t, target)
	}
	return tunnels
}

// refuse is try where it must be refused, with the given Proxy-Status error.
func (n *node) refuse(t testing.TB, target, reason string) *load.Refusal {
	t.Helper()
	tunnel, err := n.try(target)
	var refused *load.Refusal
	switch {
	case err == nil:
		_ = tunnel.Close()
		t.Fatalf("node %s opens a tunnel to %s; want a refusal: %s", n.name, target, reason)
	case !errors.As(err, &refused):
		t.Fatalf("node %s on a tunnel to %s: %v; want a refusal: %s", n.name, target, err, reason)
	case refused.Reason() != reason:
		t.Fatalf("node %s on a tunnel to %s: %v; want %s", n.name, target, refused, reason)
	}
	return refused
}

// alive checks that a tunnel still carries bytes both ways.
func alive(tunnel *load.Tunnel) error {
	if err := tunnel.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	defer func() { _ = tunnel.SetDeadline(time.Time{}) }()
	return tunnel.Hold(0)
}

func mustLive(t testing.TB, what string, tunnels ...*load.Tunnel) {
	t.Helper()
	for i, tunnel := range tunnels {
		if err := alive(tunnel); err != nil {
			t.Fatalf("%s: tunnel %d of %d is broken: %v", what, i+1, len(tunnels), err)
		}
	}
}

func end(t testing.TB, tunnels ...*load.Tunnel) {
	t.Helper()
	for _, tunnel := range tunnels {
		if err := tunnel.End(); err != nil {
			t.Fatalf("end of a tunnel: %v", err)
		}
	}
}

// weir runs a client command against the node.
func (n *node) weir(t testing.TB, args ...string) (stdout, stderr string, exitCode int) {
	t.Helper()
	return run(t, []string{"WEIR_ADDR=http://" + n.api}, os.Getenv(binaryVariable), args...)
}

// run runs a program to its end, for at most a minute.
func run(t testing.TB, env []string, name string, args ...string) (stdout, stderr string, exitCode int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", filepath.Base(name), err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %s has not ended within a minute\n%s%s", filepath.Base(name), strings.Join(args, " "), &out, &errs)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

var (
	logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ \[(TRACE|DEBUG|INFO|WARN)\]`)
	crash   = regexp.MustCompile(`(?m)^(panic:|fatal error:|WARNING: DATA RACE).*`)
)

// complaint is what a process that ended with an error told its user: all that is not ordinary log,
// which must be one line.
func complaint(t testing.TB, output string) string {
	t.Helper()
	var said []string
	for line := range strings.Lines(output) {
		if !logLine.MatchString(line) && strings.TrimSpace(line) != "" {
			said = append(said, strings.TrimRight(line, "\n"))
		}
	}
	if len(said) != 1 {
		t.Fatalf("it says %d lines; want one:\n%s", len(said), output)
	}
	return said[0]
}

// checkLog finds what must never be in a log, and prints the log's end if the test has failed.
func (n *node) checkLog(t testing.TB) {
	text, err := os.ReadFile(n.logPath)
	if err != nil {
		return // it was never started
	}
	if found := crash.Find(text); found != nil {
		t.Errorf("node %s crashed: %s", n.name, found)
	}
	if !t.Failed() {
		return
	}
	if os.Getenv(logsVariable) != "" {
		t.Logf("node %s's log: %s", n.name, n.logPath)
		return
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "tunnel ended") { // one for each connection
			lines = append(lines, line)
		}
	}
	const tail = 60
	lines = lines[max(0, len(lines)-tail):]
	t.Logf("the end of node %s's log:\n%s", n.name, strings.Join(lines, ""))
}
