package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serviceManager hears what a node tells systemd.
type serviceManager struct {
	socket string

	mu   sync.Mutex
	told []string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{socket: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, string(b[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return m
}

// count is how many messages have begun with what.
func (m *serviceManager) count(what string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range m.told {
		if strings.HasPrefix(message, what) {
			n++
		}
	}
	return n
}

// order are the messages' first lines, signs of life left out.
func (m *serviceManager) order() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var firsts []string
	for _, message := range m.told {
		first, _, _ := strings.Cut(message, "\n")
		if first != "WATCHDOG=1" {
			firsts = append(firsts, first)
		}
	}
	return strings.Join(firsts, " ")
}

// await waits until n messages have begun with what.
func (m *serviceManager) await(t *testing.T, what string, n int) {
	t.Helper()
	eventually(t, 10*time.Second, what, func() error {
		if got := m.count(what); got < n {
			return fmt.Errorf("told %d times, want %d", got, n)
		}
		return nil
	})
}

// TestServiceManagerIsTold: systemd hears of the start, of signs of life, of reloads, and of the
// end; a frozen node gives no signs.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	m := newServiceManager(t)
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		n.env = []string{"NOTIFY_SOCKET=" + m.socket, "WATCHDOG_USEC=100000"}
	}})
	n := c.nodes[0]
	m.await(t, "READY=1", 1)
	m.await(t, "WATCHDOG=1\nSTATUS=session live", 3)

	n.signal(t, syscall.SIGSTOP)
	quiet := -1
	eventually(t, 10*time.Second, "a frozen node is silent", func() error {
		before := quiet
		measure(500 * time.Millisecond) // five signs would be due
		if quiet = m.count("WATCHDOG=1"); quiet != before {
			return fmt.Errorf("%d signs of life, then %d", before, quiet)
		}
		return nil
	})
	n.signal(t, syscall.SIGCONT)
	m.await(t, "WATCHDOG=1", quiet+2)

	n.signal(t, syscall.SIGHUP)
	m.await(t, "RELOADING=1\nMONOTONIC_USEC=", 1)
	m.await(t, "READY=1", 2)
	n.terminate(t)
	if got, want := m.order(), "READY=1 RELOADING=1 READY=1 STOPPING=1"; got != want {
		t.Errorf("the service manager was told %s; want %s", got, want)
	}
}

// TestDeployedConfigs: weir accepts the configs that systemd and Compose give it, with their
// environment, and without it says what is missing.
func TestDeployedConfigs(t *testing.T) {
	t.Parallel()
	key, _, _ := run(t, nil, os.Getenv(binaryVariable), "keygen")
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("the-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string][]string{
		"systemd/weir.hcl": {"STATE_DIRECTORY=" + dir, "CREDENTIALS_DIRECTORY=" + dir},
		"compose/weir.hcl": {"WEIR_NAME=a"},
	} {
		text, err := os.ReadFile(filepath.Join("../deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Base(filepath.Dir(name))+".hcl")
		mounted := strings.ReplaceAll(string(text), `"/run/secrets/token"`, fmt.Sprintf("%q", token))
		if err := os.WriteFile(path, []byte(mounted), 0o600); err != nil {
			t.Fatal(err)
		}
		env = append(env, "WEIR_GOSSIP_KEY="+strings.TrimSpace(key))
		if stdout, stderr, code := run(t, env, os.Getenv(binaryVariable), "validate", path); code != 0 || !strings.Contains(stdout, `node "a" is valid`) {
			t.Errorf("%s: exit code %d: %s%s", name, code, stdout, stderr)
		}
		if _, stderr, code := run(t, nil, os.Getenv(binaryVariable), "validate", path); code != 1 || !strings.Contains(stderr, "WEIR_GOSSIP_KEY") {
			t.Errorf("%s without its environment: exit code %d: %s", name, code, stderr)
		}
	}
}
