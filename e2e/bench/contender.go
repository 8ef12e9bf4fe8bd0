//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/e2e/bench/usage"
	"github.com/weirproxy/weir/e2e/proc"
)

// The contenders that are always there.
const (
	direct   = "none"      // no proxy
	relay    = "relay"     // the floor
	weir     = "weir"      // with limits set, above the load
	weirFree = weir + free // the same nodes, with hosts that have no limit
	before   = "before"    // nodes of another binary: weir before a change
	// And these, with hosts that have no limit.
	beforeFree = before + free
	free       = "-free"
)

// Where the upstream is, to whom. Each address is a host of its own to weir's limits.
var (
	limitedHost = netip.MustParseAddr("127.77.0.1")
	freeHost    = netip.MustParseAddr("127.77.0.2")
	limitedWide = netip.MustParseAddr("127.128.0.0") // each of this and the following is another host
	freeWide    = netip.MustParseAddr("127.192.0.0")
	contendHost = netip.MustParseAddr("127.78.0.0") // its last byte is the limit
)

// namedHost is found in the hosts file.
const namedHost = "localhost"

// contendLimits are the limits of the workload contend.
var contendLimits = []int{1, 2, 10}

// limitsBlock is the inside of weir's limits block: above the load but for contend's hosts.
func limitsBlock() string {
	var b strings.Builder
	for _, host := range []string{limitedHost.String(), namedHost} {
		fmt.Fprintf(&b, "  host %q {\n    connections = 20000\n  }\n", host)
	}
	fmt.Fprintf(&b, "  host %q {\n    connections = 25\n  }\n", netip.PrefixFrom(limitedWide, 10))
	for _, limit := range contendLimits {
		fmt.Fprintf(&b, "  host %q {\n    connections = %d\n    queue {\n      timeout = \"60s\"\n      size    = 1000\n    }\n  }\n",
			contendAddr(limit), limit)
	}
	return b.String()
}

func contendAddr(limit int) netip.Addr {
	a := contendHost.As4()
	a[3] = byte(limit)
	return netip.AddrFrom4(a)
}

// contender is a running proxy.
type contender struct {
	name    string
	proxy   netip.AddrPort // the zero value: none
	pids    []int          // the processes whose processor time counts
	beside  []int          // those of the cluster's other nodes
	cluster *cluster       // nil but for weir
	host    netip.Addr     // by which name it is asked for the upstream
	wide    netip.Addr     // the first of many
	stop    func()
}

// maker starts a contender. skip says why it can't be on this machine.
type maker struct {
	name  string
	peer  bool
	start func(ctx context.Context, s *settings) (*contender, error)
	skip  string
}

// hasLimits reports whether it is weir, which is measured with a limit and without.
func (m maker) hasLimits() bool { return m.name == weir || m.name == before }

// makers are the contenders that the settings ask for.
func makers(s *settings) []maker {
	list := []maker{
		{name: direct, start: startDirect},
		{name: relay, start: startRelay},
		{name: weir, start: startWeir},
	}
	if s.before != "" {
		list = append(list, maker{name: before, start: startBefore})
	}
	for _, name := range s.peers {
		m := maker{name: name, peer: true}
		switch start := packaged[name]; {
		case start == nil:
			m.skip = "not known: name another proxy by -peer name=host:port,pid"
		default:
			m.start = start
			if _, err := installed(name); err != nil {
				m.skip = "not installed; Debian has it: apt-get install --no-install-recommends " + name
			}
		}
		list = append(list, m)
	}
	for _, p := range s.others {
		list = append(list, maker{name: p.name, peer: true, start: p.start})
	}
	return list
}

// installed finds a program, also where only root's PATH looks.
func installed(name string) (path string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	return path, err
}

func startDirect(context.Context, *settings) (*contender, error) {
	return &contender{name: direct, host: freeHost, wide: freeWide, stop: func() {}}, nil
}

func startRelay(ctx context.Context, s *settings) (*contender, error) {
	return startProgram(ctx, relay, func(_, addr string) (string, []string, error) {
		return s.relay, []string{"-listen", addr}, nil
	})
}

func startWeir(ctx context.Context, s *settings) (*contender, error) {
	return startNodes(ctx, weir, s.weir, s.logLevel)
}

func startBefore(ctx context.Context, s *settings) (*contender, error) {
	return startNodes(ctx, before, s.before, s.logLevel)
}

// startNodes starts a cluster of the binary.
func startNodes(ctx context.Context, name, binary, logLevel string) (*contender, error) {
	cl, err := startCluster(ctx, binary, logLevel, limitsBlock())
	if err != nil {
		return nil, err
	}
	c := &contender{
		name: name, proxy: cl.used.addrPort(), pids: []int{cl.used.process.Pid()}, cluster: cl,
		host: limitedHost, wide: limitedWide, stop: cl.stop,
	}
	for _, n := range cl.nodes {
		if n != cl.used {
			c.beside = append(c.beside, n.process.Pid())
		}
	}
	return c, nil
}

// free is the same cluster, asked for hosts without a limit. It is stopped with the other.
func (c *contender) free() *contender {
	f := *c
	f.name, f.host, f.wide, f.stop = c.name+free, freeHost, freeWide, func() {}
	return &f
}

// packaged are the peers that Debian has, with a configuration as lean as they let it be: no logs,
// no cache.
var packaged = map[string]func(context.Context, *settings) (*contender, error){
	"squid":     startSquid,
	"tinyproxy": startTinyproxy,
}

func startSquid(ctx context.Context, _ *settings) (*contender, error) {
	return startProgram(ctx, "squid", func(dir, addr string) (string, []string, error) {
		text := fmt.Sprintf("http_port %s\nhttp_access allow all\naccess_log none\ncache deny all\ncache_mem 8 MB\npid_filename none\n"+
			"cache_log %s\ncoredump_dir %s\nshutdown_lifetime 0 seconds\nmax_filedescriptors 16384\npinger_enable off\n",
			addr, filepath.Join(dir, "cache.log"), dir)
		path := filepath.Join(dir, "squid.conf")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", nil, err
		}
		program, err := installed("squid")
		return program, []string{"-N", "-f", path}, err
	})
}

func startTinyproxy(ctx context.Context, _ *settings) (*contender, error) {
	return startProgram(ctx, "tinyproxy", func(dir, addr string) (string, []string, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return "", nil, err
		}
		text := fmt.Sprintf("Listen %s\nPort %s\nTimeout 600\nMaxClients 8192\nLogLevel Critical\nAllow 127.0.0.0/8\n", host, port)
		path := filepath.Join(dir, "tinyproxy.conf")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", nil, err
		}
		program, err := installed("tinyproxy")
		return program, []string{"-d", "-c", path}, err
	})
}

// startProgram runs a proxy that listens on an address given to it, and waits until it does.
// prepare writes what it needs into dir, and returns the program with its arguments.
func startProgram(ctx context.Context, name string, prepare func(dir, addr string) (string, []string, error)) (*contender, error) {
	addrs, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "weir-bench-"+name+"-")
	if err != nil {
		return nil, err
	}
	var process *proc.Process
	stop := func() {
		if process != nil {
			process.Kill()
		}
		_ = os.RemoveAll(dir)
	}
	err = os.Chmod(dir, 0o777) // a program that was started by root may give its rights away before it writes
	if err == nil {
		var program string
		var args []string
		if program, args, err = prepare(dir, addrs[0]); err == nil {
			process, err = startLogged(program, filepath.Join(dir, "output"), args...)
		}
	}
	if err == nil {
		err = await(ctx, readyWithin, func() error { return answers(process, addrs[0]) })
	}
	if err != nil {
		output, _ := os.ReadFile(filepath.Join(dir, "output"))
		stop()
		return nil, fmt.Errorf("start %s: %w\n%s", name, err, output)
	}
	c := &contender{name: name, proxy: netip.MustParseAddrPort(addrs[0]), host: freeHost, wide: freeWide, stop: stop}
	c.pids, err = usage.Family(process.Pid())
	return c, err
}

// answers checks that a process listens.
func answers(process *proc.Process, addr string) error {
	if !process.Running() {
		return &finalError{fmt.Errorf("it has ended with exit code %d", process.ExitCode())}
	}
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// other is a proxy that somebody else has started.
type other struct {
	name string
	addr netip.AddrPort
	pid  int
}

// parseOther reads name=host:port,pid.
func parseOther(text string) (other, error) {
	name, rest, ok1 := strings.Cut(text, "=")
	addr, number, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || name == "" {
		return other{}, errors.New("want name=host:port,pid")
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().Is4() {
		return other{}, fmt.Errorf("%q is not an IPv4 address with a port", addr)
	}
	pid, err := strconv.Atoi(number)
	if err != nil || pid < 1 {
		return other{}, fmt.Errorf("%q is not the number of a process", number)
	}
	return other{name, ap, pid}, nil
}

func (o other) start(context.Context, *settings) (*contender, error) {
	family, err := usage.Family(o.pid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.name, err)
	}
	return &contender{name: o.name, proxy: o.addr, pids: family, host: freeHost, wide: freeWide, stop: func() {}}, nil
}
