package weir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/proxy"
)

// accessLog writes the lines of finished tunnels and requests. The zero value is closed.
type accessLog struct {
	log   hclog.Logger
	lines io.Writer // for lines without a file

	mu     sync.Mutex
	file   *os.File // nil if they go to the node's own log, or nowhere
	failed bool     // the last write failed, and that was logged
}

// A lineOutput is where the lines go once use is called.
type lineOutput struct {
	proxy.LineOutput
	file *os.File // nil if they go to the node's own log, or nowhere
}

// prepare opens the output of a configuration, and changes nothing yet. It opens a file anew,
// because log rotation has moved the former one away.
func (a *accessLog) prepare(c *config.Config) (lineOutput, error) {
	to := lineOutput{LineOutput: proxy.LineOutput{JSON: c.Log.Format == "json"}}
	switch path := c.Proxy.AccessLog; path {
	case config.AccessLogOff:
	case config.AccessLogHere:
		to.Writer = a.lines
		if _, attributes := a.lines.(slogLines); attributes {
			to.JSON = true
		}
	default:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return to, fmt.Errorf("proxy.access_log: %w: let the node's user write there, or name another file", err)
		}
		to.Writer, to.Always, to.file = a, true, file
	}
	return to, nil
}

// use passes a prepared output to set. An error is that of closing the former file.
func (a *accessLog) use(to lineOutput, set func(proxy.LineOutput)) error {
	if to.file != nil {
		defer set(to.LineOutput) // once there is a file to write to
	} else {
		set(to.LineOutput) // before the former file is closed
	}
	return a.replace(to.file)
}

// discard closes a prepared output that is not used.
func (to lineOutput) discard() {
	if to.file != nil {
		_ = to.file.Close() // nothing was written
	}
}

// replace changes to another file, and closes the former one.
func (a *accessLog) replace(file *os.File) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	former := a.file
	a.file, a.failed = file, false
	if former == nil {
		return nil
	}
	return former.Close()
}

// Write implements [io.Writer] for whole lines. A file that takes none, as on a full disk, is
// reported once.
func (a *accessLog) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return 0, errors.New("the access log is closed")
	}
	n, err := a.file.Write(b)
	if err != nil && !a.failed {
		a.log.Error("the access log can't be written: lines are lost", "error", err)
	}
	a.failed = err != nil
	return n, err
}

func (a *accessLog) close() error { return a.replace(nil) }
