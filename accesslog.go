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

// open passes the output of a configuration to set. It opens a file anew, because log rotation has
// moved the former one away. On an error everything stays as it was.
func (a *accessLog) open(c *config.Config, set func(proxy.LineOutput)) error {
	to := proxy.LineOutput{JSON: c.Log.Format == "json"}
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
			return fmt.Errorf("proxy.access_log: %w: let the node's user write there, or name another file", err)
		}
		to.Writer, to.Always = a, true
		defer set(to) // once there is a file to write to
		return a.replace(file)
	}
	set(to) // before the former file is closed
	return a.replace(nil)
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
