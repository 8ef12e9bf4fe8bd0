//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/weirproxy/weir/e2e/proc"
)

// profilers are the programs that can look at a contender while it is measured, by the name of the
// setting. Their arguments end with the process, and begin with what names their output.
var profilers = map[string]func(out string, pid int) []string{
	"perf": func(out string, pid int) []string {
		return []string{"record", "-q", "-F", "1999", "-g", "-o", out, "-p", strconv.Itoa(pid)}
	},
	"strace": func(out string, pid int) []string {
		return []string{"-c", "-f", "-qq", "-o", out, "-p", strconv.Itoa(pid)}
	},
}

// pprof is the profiler that a node has built in: it is asked through its API.
const pprof = "pprof"

// fetchProfile asks a node to profile itself for the time of the window.
func (b *bench) fetchProfile(ctx context.Context, c *contender, out string) (stop func(ops int64), err error) {
	if c.cluster == nil {
		return nil, fmt.Errorf("%s can't profile itself: only %s can", c.name, weir)
	}
	seconds := (b.settings.window + time.Second - 1) / time.Second
	fetched := make(chan error, 1)
	go func() {
		profile, err := c.cluster.send(ctx, c.cluster.used, http.MethodGet, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), "")
		if err == nil {
			err = os.WriteFile(out, profile, 0o600)
		}
		fetched <- err
	}()
	return func(ops int64) {
		if err := <-fetched; err != nil {
			b.printf("no profile: %v\n", err)
			return
		}
		b.printf("profile of %d operations: %s\n", ops, out)
	}, nil
}

// profile starts the profiler that the settings ask for, if c is what it is to look at. The
// returned function ends it, and is told how many operations it has seen.
func (b *bench) profile(ctx context.Context, c *contender) (stop func(ops int64), err error) {
	s := b.settings
	if s.profiler == "" || c.name != s.profiled || len(c.pids) == 0 {
		return func(int64) {}, nil
	}
	name := fmt.Sprintf("%s-%s-%s-%d", b.workload, c.name, s.profiler, b.round)
	out, err := filepath.Abs(filepath.Join(s.profileDir, name))
	if err != nil {
		return nil, err
	}
	if s.profiler == pprof {
		return b.fetchProfile(ctx, c, out)
	}
	process, err := proc.Start(proc.Spec{Name: s.profiler, Path: s.profiler, Args: profilers[s.profiler](out, c.pids[0]), Output: os.Stderr})
	if err != nil {
		return nil, err
	}
	stop = func(ops int64) {
		_ = process.Signal(syscall.SIGINT) // an error means that it has ended
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		if _, err := process.Wait(ctx); err != nil {
			process.Kill()
		}
		b.printf("profile of %d operations: %s\n", ops, out)
	}
	if err := sleep(ctx, attachTime); err != nil {
		stop(0)
		return nil, err
	}
	return stop, nil
}

// attachTime is what a profiler gets to attach itself.
const attachTime = 500 * time.Millisecond
