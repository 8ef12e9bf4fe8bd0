package main

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
)

// Bounds of the log that a node remembers.
const (
	linesRemembered = 1000
	lineRemembered  = 4 << 10 // bytes of one
)

// logRing holds the newest lines that were written to it.
type logRing struct {
	mu    sync.Mutex
	lines []string
	next  int // the line to overwrite next, once the ring is full
}

// Write implements [io.Writer]; it never fails.
func (r *logRing) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(b) {
		line = bytes.TrimRight(line, "\r\n")
		r.add(strings.ToValidUTF8(string(line[:min(len(line), lineRemembered)]), "?"))
	}
	return len(b), nil
}

func (r *logRing) add(line string) {
	if len(r.lines) < linesRemembered {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % linesRemembered
}

// newest returns the last n lines, oldest first.
func (r *logRing) newest(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(append([]string{}, r.lines[r.next:]...), r.lines[:r.next]...)
	return all[max(0, len(all)-n):]
}

// Settings implements [api.Diagnostics].
func (a *agent) Settings() []api.Setting {
	a.mu.Lock()
	cfg := a.cfg
	a.mu.Unlock()
	var out []api.Setting
	for _, s := range config.Settings(cfg) {
		out = append(out, api.Setting{Path: s.Path, Value: s.Value, At: s.At})
	}
	return out
}

// RecentLog implements [api.Diagnostics].
func (a *agent) RecentLog(n int) []string { return a.recent.newest(n) }

// System implements [api.Diagnostics].
func (a *agent) System() api.System {
	b := thisBuild()
	s := api.System{
		Node: a.name(), Version: b.Version, Commit: b.Commit, Go: b.GoVersion, OS: runtime.GOOS, Arch: runtime.GOARCH,
		Kernel: kernel(), CPUs: runtime.GOMAXPROCS(0), PID: os.Getpid(), Started: a.started.UTC().Truncate(time.Second), Now: time.Now().UTC(),
		OpenFiles: openFiles(),
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		s.MaxFiles = files.Cur
	}
	var fs unix.Statfs_t
	if path := a.data.Path(); path != "" && unix.Statfs(path, &fs) == nil {
		s.DataFree, s.DataTotal = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	}
	return s
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// openFiles counts the process's descriptors, if the system lists them.
func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list) - 1 // the one that reads the list
}
