package weir

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// The log of a program gets what the node's packages write, with their names, pairs and levels.
func TestSlogger(t *testing.T) {
	var out bytes.Buffer
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := newSlogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: plain, AddSource: true})))
	wrote := func(parts ...string) {
		t.Helper()
		line := out.String()
		out.Reset()
		if len(parts) == 0 && line != "" || strings.Count(line, "\n") > 1 {
			t.Errorf("it wrote %q", line)
		}
		for _, part := range parts {
			if !strings.Contains(line, part) {
				t.Errorf("%q does not have %q", line, part)
			}
		}
	}
	log.Warn("a message", "key", 1, "format", hclog.Fmt("%d of %d", 2, 3))
	wrote("level=WARN", `msg="a message"`, "logger=weir", "key=1", `format="2 of 3"`, "slog_test.go")
	sub := log.Named("raft").With("peer", "b")
	sub.Debug("odd", "key")
	wrote("level=DEBUG", "logger=weir.raft", "peer=b", "extra=key")
	sub.Named("x").Error("deeper")
	wrote("level=ERROR", "logger=weir.raft.x", "peer=b")
	sub.ResetNamed("other").Info("renamed")
	wrote("logger=other", "peer=b")
	sub.Trace("nobody sees this")
	sub.Log(hclog.Off, "nor this")
	wrote()
	if !sub.IsDebug() || sub.IsTrace() || sub.GetLevel() != hclog.Debug {
		t.Errorf("the level is %s", sub.GetLevel())
	}
	std := log.Named("gossip").StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true})
	std.Print("[WARN] memberlist: late")
	wrote("level=WARN", `msg="memberlist: late"`, "logger=weir.gossip")
	log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}).Print("[ERROR] not so bad")
	wrote("level=DEBUG", `msg="[ERROR] not so bad"`)
	if _, err := (slogLines{slog.New(slog.NewTextHandler(&out, nil))}).Write([]byte("one\n")); err != nil {
		t.Error(err)
	}
	wrote("level=INFO", "msg=one")
}
