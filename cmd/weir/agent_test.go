package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir"
)

// Whatever a node stops for, the second signal stops it at once and the first does not. SIGHUP is
// none of them.
func TestSignalsWhileStopping(t *testing.T) {
	failed := errors.New("a part has failed")
	for _, c := range []struct {
		name    string
		why     error
		first   string // what the log says of a first signal, "" where it has come before
		atEnd   error  // what finish returns after the node's end
		signals []os.Signal
	}{
		{"a signal", nil, "", nil, []os.Signal{syscall.SIGHUP}},
		{"leave", weir.ErrLeave, "already leaving; another signal stops at once", nil, []os.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGHUP}},
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
