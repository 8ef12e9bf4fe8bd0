package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirproxy/weir/e2e/proc"
)

const (
	readyWithin = 30 * time.Second // all nodes, from their start
	stopWithin  = 60 * time.Second // a node: its drain_timeout, 30 s, and as long for the rest
)

// member is one node: its name, which is also its file's, and where it listens.
type member struct{ name, proxy, api string }

// fleet is the nodes as processes.
type fleet struct {
	lines   *proc.Screen
	colour  bool // of the prefixes
	running []running
	screens []*proc.Prefixer
}

type running struct {
	member
	*proc.Process
}

func newFleet(out io.Writer, colour bool) *fleet {
	return &fleet{lines: proc.NewScreen(out), colour: colour}
}

// screen is where the i-th node's log goes: to the common output, each line with the node's name
// before it.
func (f *fleet) screen(i int, name string) io.Writer {
	prefix := name + " | "
	if f.colour {
		prefix = fmt.Sprintf("\x1b[%dm%s |\x1b[0m ", 32+i%5, name) // green, yellow, blue, magenta, cyan
	}
	screen := proc.NewPrefixer(f.lines, prefix)
	f.screens = append(f.screens, screen)
	return screen
}

func (f *fleet) start(m member, weir, config string, out io.Writer) error {
	args := []string{"agent", "--config", config}
	p, err := proc.Start(proc.Spec{Name: "node " + m.name, Path: weir, Args: args, Output: out})
	if err != nil {
		return err
	}
	f.running = append(f.running, running{m, p})
	return nil
}

// awaitReady waits until every node can admit. A node that ends meanwhile is an error.
func (f *fleet) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("the nodes are not ready after %v", readyWithin))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, n := range f.running {
		for !isReady(ctx, client, n.api) {
			select {
			case <-n.Done():
				return fmt.Errorf("node %s ended with exit code %d before it was ready: its log says why", n.name, n.ExitCode())
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "all %d nodes are ready\n", len(f.running))
	for _, n := range f.running {
		fmt.Fprintf(&b, "  %s: proxy http://%s, page http://%s/ui/\n", n.name, n.proxy, n.api)
	}
	_, err := io.WriteString(f.lines, b.String())
	return err
}

func isReady(ctx context.Context, client *http.Client, api string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+api+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// awaitEnd waits for ctx, or until no node runs any more.
func (f *fleet) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan running, len(f.running))
	for _, n := range f.running {
		go func() {
			select {
			case <-n.Done():
				ended <- n
			case <-ctx.Done():
			}
		}()
	}
	for left := len(f.running); left > 0; left-- {
		select {
		case n := <-ended:
			how := fmt.Sprintf("with exit code %d", n.ExitCode())
			if n.ExitCode() < 0 {
				how = "by a signal"
			}
			if _, err := fmt.Fprintf(f.lines, "node %s has ended %s; %d of %d nodes are left\n", n.name, how, left-1, len(f.running)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return errors.New("all nodes have ended")
}

// stop asks every node to stop, all at once, and a second time at the next signal. It returns
// failed if there is one, or names the nodes that did not stop in good order; one that had ended
// before is not among them.
func (f *fleet) stop(signals <-chan os.Signal, failed error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	stopped := make(chan struct{})
	errs := make([]error, len(f.running))
	var wg sync.WaitGroup
	for i, n := range f.running {
		if !n.Running() {
			continue
		}
		wg.Go(func() {
			if code, err := n.Stop(ctx); err != nil || code != 0 {
				errs[i] = errors.Join(fmt.Errorf("node %s ended with exit code %d", n.name, code), err)
			}
		})
	}
	go func() { wg.Wait(); close(stopped) }()
	for {
		select {
		case <-stopped:
			return errors.Join(append(errs, failed)...)
		case <-signals:
			for _, n := range f.running {
				_ = n.Signal(syscall.SIGTERM) // an error means that it has ended
			}
		}
	}
}

// close ends what still runs and writes what a node said without ending the line.
func (f *fleet) close() {
	for _, n := range f.running {
		n.Kill()
	}
	for _, s := range f.screens {
		_ = s.Flush()
	}
}
