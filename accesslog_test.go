package weir

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/proxy"
)

// An access log can be moved, rotated and switched off; a name that can't be opened changes
// nothing.
func TestAccessLog(t *testing.T) {
	var log, lines bytes.Buffer
	a := accessLog{log: hclog.New(&hclog.LoggerOptions{Output: &log}), lines: &lines}
	var to proxy.LineOutput
	open := func(path string) error {
		c := config.Default(true)
		c.Proxy.AccessLog = path
		out, err := a.prepare(c)
		if err != nil {
			return err
		}
		return a.use(out, func(next proxy.LineOutput) { to = next })
	}
	write := func(s string) {
		if to.Writer != nil {
			_, _ = to.Writer.Write([]byte(s)) // what fails is reported by itself
		}
	}
	path := filepath.Join(t.TempDir(), "access.log")
	holds := func(path, want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", path, b, err, want)
		}
	}

	if err := open(path); err != nil || !to.Always {
		t.Fatal(err, to)
	}
	write("1\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("2\n")
	if err := open(path); err != nil { // as a reload does
		t.Fatal(err)
	}
	write("3\n")
	holds(path+".1", "1\n2\n")
	holds(path, "3\n")

	if err := open(filepath.Join(path, "below a file")); err == nil || !strings.Contains(err.Error(), "proxy.access_log") {
		t.Errorf("a name below a file: %v", err)
	}
	write("4\n")
	holds(path, "3\n4\n")

	if err := open(config.AccessLogHere); err != nil || to.Writer != &lines || to.Always {
		t.Errorf("%v, %+v", err, to)
	}
	if err := open(config.AccessLogOff); err != nil || to.Writer != nil {
		t.Errorf("%v, %+v", err, to)
	}

	// A full disk is reported once, until it takes lines again.
	if err := open(path); err != nil {
		t.Fatal(err)
	}
	a.file.Close()
	write("lost\n")
	write("lost\n")
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "the access log can't be written") {
		t.Errorf("the log says %q", said)
	}
	a.file = nil
	if err := a.close(); err != nil {
		t.Error(err)
	}
}
