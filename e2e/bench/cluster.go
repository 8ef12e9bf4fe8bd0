//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weirproxy/weir/e2e/proc"
)

const (
	nodes       = 3
	readyWithin = 30 * time.Second
	stopWithin  = 5 * time.Second
)

// cluster is three nodes of weir on this machine.
type cluster struct {
	dir   string
	token string // of the API
	nodes []*node
	used  *node // the one whose proxy the workers use, where they use one: not the leader
	http  http.Client

	// The units that some bars are in: one after the other, and as rarely as a contended slot
	// changes hands.
	fast, paced units
}

// units are what a commit and a round trip take.
type units struct{ commit, roundTrip time.Duration }

// node is one of them.
type node struct {
	name                    string
	proxy, api, rpc, gossip string
	process                 *proc.Process
}

const nodeFile = `name     = %[1]q
data_dir = %[2]q

log {
  level = %[3]q
}

cluster {
  rpc              = %[4]q
  gossip           = %[5]q
  join             = [%[6]s]
  bootstrap_expect = %[7]d
}

proxy {
  listen        = %[8]q
  drain_timeout = "1s"
}

api {
  listen     = %[9]q
  token_file = %[11]q
}

limits {
%[10]s}
`

// startCluster starts the nodes of the binary with the limits (HCL, the inside of the block), and
// waits until they are ready.
func startCluster(ctx context.Context, binary, logLevel, limits string) (*cluster, error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, token: rand.Text()}
	if err = c.start(binary, logLevel, limits); err == nil {
		err = c.awaitReady(ctx)
	}
	if err == nil {
		err = c.chooseUsed(ctx)
	}
	if err == nil {
		err = c.probeUnits(ctx)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(binary, logLevel, limits string) error {
	addrs, err := freePorts(4 * nodes)
	if err != nil {
		return err
	}
	var join []string
	for i := range nodes {
		n := &node{name: string(rune('a' + i)), proxy: addrs[4*i], api: addrs[4*i+1], rpc: addrs[4*i+2], gossip: addrs[4*i+3]}
		c.nodes = append(c.nodes, n)
		join = append(join, fmt.Sprintf("%q", n.gossip))
	}
	token := filepath.Join(c.dir, "token")
	if err := os.WriteFile(token, []byte(c.token), 0o600); err != nil {
		return err
	}
	for _, n := range c.nodes {
		path := filepath.Join(c.dir, n.name)
		text := fmt.Sprintf(nodeFile, n.name, path, logLevel, n.rpc, n.gossip, strings.Join(join, ", "), nodes, n.proxy, n.api, limits, token)
		if err := os.WriteFile(path+".hcl", []byte(text), 0o600); err != nil {
			return err
		}
		if n.process, err = startLogged(binary, path+".log", "agent", "--config", path+".hcl"); err != nil {
			return err
		}
	}
	return nil
}

// startLogged runs a program with its output in a file.
func startLogged(program, logPath string, args ...string) (*proc.Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	return proc.Start(proc.Spec{Name: filepath.Base(program), Path: program, Args: args, Output: log})
}

func (c *cluster) awaitReady(ctx context.Context) error {
	for _, n := range c.nodes {
		err := await(ctx, readyWithin, func() error {
			if !n.process.Running() {
				return &finalError{fmt.Errorf("it has ended with exit code %d", n.process.ExitCode())}
			}
			return c.get(ctx, n, "/readyz", nil)
		})
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(c.dir, n.name+".log"))
			return fmt.Errorf("node %s is not ready: %w; the end of its log:\n%s", n.name, err, log[max(0, len(log)-2000):])
		}
	}
	return nil
}

// finalError ends an await.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// await asks again and again until there is no error.
func await(ctx context.Context, within time.Duration, holds func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		var final *finalError
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// get reads a node's API into an answer, if one is wanted.
func (c *cluster) get(ctx context.Context, n *node, path string, answer any) error {
	return c.call(ctx, n, http.MethodGet, path, "", answer)
}

func (c *cluster) call(ctx context.Context, n *node, method, path, body string, answer any) error {
	text, err := c.send(ctx, n, method, path, body)
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// send asks a node's API and returns what it answers.
func (c *cluster) send(ctx context.Context, n *node, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.api+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("node %s: %s %s is answered with %s: %s", n.name, method, path, resp.Status, answer)
	}
	return answer, err
}

// status is what is needed of GET /v1/status.
type status struct {
	Leader string `json:"leader"`
	Raft   struct {
		LastIndex uint64 `json:"last_index"`
	} `json:"raft"`
}

// leader finds the node that leads.
func (c *cluster) leader(ctx context.Context) (*node, error) {
	var leader *node
	err := await(ctx, readyWithin, func() error {
		var s status
		if err := c.get(ctx, c.nodes[0], "/v1/status", &s); err != nil {
			return err
		}
		for _, n := range c.nodes {
			if n.name == s.Leader {
				leader = n
				return nil
			}
		}
		return fmt.Errorf("the leader is %q", s.Leader)
	})
	return leader, err
}

// lastIndex is the leader's last log index.
func (c *cluster) lastIndex(ctx context.Context) (uint64, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return 0, err
	}
	var s status
	err = c.get(ctx, leader, "/v1/status", &s)
	return s.Raft.LastIndex, err
}

func (c *cluster) chooseUsed(ctx context.Context) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n != leader {
			c.used = n
		}
	}
	return nil
}

// probe measures a commit (a write of a limit through the leader's API, less a round trip), and a
// round trip (a read of the leader's API), in the idle cluster, before any load: what a limit's
// write costs beside the commit grows with the hosts that are known. With a pause before each,
// processors that have gone to sleep meanwhile take part in it.
func (c *cluster) probe(ctx context.Context, times int, pause time.Duration) (units, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return units{}, err
	}
	timed := func(ask func() error) (time.Duration, error) {
		if err := sleep(ctx, pause); err != nil {
			return 0, err
		}
		begun := time.Now()
		err := ask()
		return time.Since(begun), err
	}
	var writes, reads []time.Duration
	for i := range times {
		write, err := timed(func() error {
			body := fmt.Sprintf(`{"connections":%d}`, i+1)
			return c.call(ctx, leader, http.MethodPut, "/v1/limits/host/commit.invalid", body, nil)
		})
		if err != nil {
			return units{}, err
		}
		read, err := timed(func() error { return c.get(ctx, leader, "/healthz", nil) })
		if err != nil {
			return units{}, err
		}
		writes, reads = append(writes, write), append(reads, read)
	}
	roundTrip := median(reads)
	return units{commit: median(writes) - roundTrip, roundTrip: roundTrip}, nil
}

// probeUnits measures the units that bars are in.
func (c *cluster) probeUnits(ctx context.Context) (err error) {
	if c.fast, err = c.probe(ctx, 51, 0); err == nil {
		c.paced, err = c.probe(ctx, 21, 50*time.Millisecond)
	}
	return err
}

// stop ends the nodes and removes their files.
func (c *cluster) stop() {
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.Kill()
		}
	}
	c.http.CloseIdleConnections()
	_ = os.RemoveAll(c.dir)
}

// addrPort is the node's proxy.
func (n *node) addrPort() netip.AddrPort { return netip.MustParseAddrPort(n.proxy) }

// freePorts finds n loopback addresses whose port is free for TCP and UDP, below the range that the
// kernel gives to outgoing connections.
func freePorts(n int) ([]string, error) {
	const first, last, attempts = 15000, 32000, 1000
	var addrs []string
	for range attempts {
		if len(addrs) == n {
			return addrs, nil
		}
		addr := fmt.Sprintf("127.0.0.1:%d", first+mrand.IntN(last-first))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		defer func() { _ = tcp.Close() }() // held till all are found, so that none is found twice
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		defer func() { _ = udp.Close() }()
		addrs = append(addrs, addr)
	}
	return nil, fmt.Errorf("no %d free ports between %d and %d", n, first, last)
}
