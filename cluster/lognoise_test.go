package cluster

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clustertest"
)

// What strangers can make Raft's transport say is said once in half a minute.
func TestStrangersCauseFewLines(t *testing.T) {
	const times = 5000
	var log clustertest.Log
	raft := newQuietLogger(hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info}))
	for range times {
		raft.Error("failed to decode incoming command", "error", errors.New("unknown rpc type 71"))
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines about commands that can't be decoded", n)
	}
}

func TestUnreachablePeersAreSaidOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := newQuietLogger(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info}))
	for range 50 {
		log.Error("failed to heartbeat to", "peer", "127.0.0.1:1", "error", errors.New("refused"))
		log.Named("x").Warn("failed to contact", "server-id", "b.1")
	}
	log.Error("failed to heartbeat to", "peer", "127.0.0.1:2", "error", errors.New("refused"))
	log.Error("something else", "error", errors.New("broken"))
	log.Error("something else", "error", errors.New("broken"))
	if got := strings.Count(out.String(), "\n"); got != 5 {
		t.Errorf("%d lines, want 5:\n%s", got, out.String())
	}
	if got := strings.Count(out.String(), "[ERROR]"); got != 2 {
		t.Errorf("%d errors, want the 2 that are no peer's:\n%s", got, out.String())
	}
}
