package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir"
)

// Whatever a node stops for, the second signal stops it at once and the first does not.
func TestSignalsWhileStopping(t *testing.T) {
	failed := errors.New("a part has failed")
	for _, c := range []struct {
		name    string
		why     error
		first   string // what the log says of a first signal, "" where it has come before
		atEnd   error  // what finish returns after the node's end
		signals []os.Signal
	}{
		{"a signal", nil, "", nil, nil},
		{"leave", weir.ErrLeave, "already leaving; another signal stops at once", nil, []os.Signal{syscall.SIGTERM}},
		{"a failure", failed, "already stopping; another signal stops at once", failed, []os.Signal{syscall.SIGTERM}},
	} {
		for _, again := range []bool{false, true} {
			var log bytes.Buffer
			signals, closed, done := make(chan os.Signal), make(chan error), make(chan error, 1)
			a := &agent{log: hclog.New(&hclog.LoggerOptions{Output: &log})}
			a.notify = newNotifier(environment(), 7, a.log)
			go func() { done <- a.finish(c.why, signals, closed) }()
			send := func(s os.Signal) {
				select {
				case signals <- s:
				case err := <-done:
					t.Fatalf("%s: it ended before %v: %v", c.name, s, err)
				}
			}
			for _, s := range c.signals {
				send(s)
			}
			if again {
				send(syscall.SIGINT)
				if err := <-done; err == nil || !strings.Contains(err.Error(), "second signal (interrupt)") {
					t.Errorf("%s, and a second signal: %v", c.name, err)
				}
			} else {
				select {
				case closed <- nil:
					if err := <-done; !errors.Is(err, c.atEnd) {
						t.Errorf("%s: %v, want %v", c.name, err, c.atEnd)
					}
				case err := <-done:
					t.Errorf("%s: it did not wait for the node's end: %v", c.name, err)
				}
			}
			if !strings.Contains(log.String(), c.first) {
				t.Errorf("%s: the log says %q, not %q", c.name, log.String(), c.first)
			}
		}
	}
}

// Without a leader a reload takes seconds, and others may wait behind it. The signal that stops the
// node is not lost behind them, and does not wait for the one that is under way.
func TestStopBehindReloads(t *testing.T) {
	dir := t.TempDir()
	socket, file := filepath.Join(dir, "notify"), filepath.Join(dir, "weir.hcl")
	leaderless := fmt.Sprintf(`name = "a"
data_dir = %q
proxy { listen = ["127.0.0.1:0"] }
api { listen = "127.0.0.1:0" }
cluster {
  rpc = "127.0.0.1:0"
  gossip = "127.0.0.1:0"
  bootstrap_expect = 3
}
log { level = "error" }
`, filepath.Join(dir, "data"))
	if err := os.WriteFile(file, []byte(leaderless), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	heard := listenNotify(t, socket)
	next := func() string {
		t.Helper()
		for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
			if message, _, _ := strings.Cut(heard(), "\n"); message != "" {
				return message
			}
		}
		t.Fatal("the service manager is told nothing")
		return ""
	}
	seen := make(chan os.Signal, 16)
	signal.Notify(seen, syscall.SIGHUP, syscall.SIGTERM)
	defer signal.Stop(seen)
	send := func(s syscall.Signal) { // until it is delivered: equal signals under way become one
		t.Helper()
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		<-seen
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runAgent(ctx, source{paths: []string{file}}) }()
	t.Cleanup(func() {
		cancel() // ends it where the signal does not
		if err := <-ended; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})

	if got := next(); got != "READY=1" {
		t.Fatalf("first the service manager is told %s", got)
	}
	send(syscall.SIGHUP)
	if got := next(); got != "RELOADING=1" {
		t.Fatalf("after SIGHUP the service manager is told %s", got)
	}
	for range 6 {
		send(syscall.SIGHUP)
	}
	send(syscall.SIGTERM)
	if got := next(); got != "STOPPING=1" {
		t.Fatalf("after SIGTERM the service manager is told %s", got)
	}
}
