package weir

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/config"
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

// The lines of finished tunnels and requests are records with attributes, not text in a message.
func TestLinesAreRecords(t *testing.T) {
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	var out bytes.Buffer
	n, err := Start(t.Context(), Config{
		Name: "a", Proxy: "127.0.0.1:0", Logger: slog.New(slog.NewJSONHandler(&out, nil)),
		Settings: func(c *config.Config) { c.Proxy.AccessLog = config.AccessLogHere },
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(n.ProxyURL())}}
	resp, err := client.Get(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	client.CloseIdleConnections()
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out.Bytes()) {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] != "request ended" {
			continue
		}
		for key, want := range map[string]any{
			"level": "INFO", "logger": "weir.proxy", "node": "a", "method": "GET", "host": "127.0.0.1", "status": 404.0, "reused": false,
		} {
			if record[key] != want {
				t.Errorf("%s is %v, want %v", key, record[key], want)
			}
		}
		return
	}
	t.Errorf("no line for the request:\n%s", &out)
}
