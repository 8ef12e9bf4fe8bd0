package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/config"
)

func newLogger(c config.Log, also io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: "weir", Level: hclog.LevelFromString(c.Level), JSONFormat: c.Format == "json", Output: io.MultiWriter(also, os.Stderr),
	})
}

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
