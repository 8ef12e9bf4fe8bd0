package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// audited are the lines of a node's audit since they were asked for last: the message, and then the
// keys in alphabetical order.
func (n *benchNode) audited(t *testing.T) func() []string {
	t.Helper()
	var out bytes.Buffer
	n.server.audit = hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true, Level: hclog.Info})
	return func() []string {
		var lines []string
		for line := range strings.Lines(out.String()) {
			fields := map[string]any{}
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint(fields["@message"])
			for _, key := range slices.Sorted(maps.Keys(fields)) {
				if !strings.HasPrefix(key, "@") && key != "index" {
					text += fmt.Sprintf(" %s=%v", key, fields[key])
				}
			}
			lines = append(lines, text)
		}
		out.Reset()
		return lines
	}
}

// TestAudit makes each change that the API can make, through a node that does not lead, and reads
// what is told of it, and where.
func TestAudit(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a", "b")
	leader, other := b.nodes["a"].audited(t), b.nodes["b"].audited(t)
	b.nodes["b"].list = []api.Connection{{ID: "7", Host: "x.org", Port: 1}}
	b.nodes["a"].list = b.nodes["b"].list
	const who = " auth=token client=192.0.2.1:1234"
	for _, c := range []struct {
		method, path, body string
		leader, other      []string
	}{
		{"PUT", pathLimit + "x.org", `{"connections":5}`,
			[]string{"limit changed action=add after=5 connections" + " auth=token before=none client=192.0.2.1:1234 pattern=x.org scope=host source=api through=b"}, nil},
		{"PUT", pathLimit + "x.org", `{"connections":5}`, nil, nil}, // changes nothing
		{"PUT", pathLimit + "x.org?evict=true", `{"connections":2,"queue":{"timeout":"2s","size":9}}`, []string{
			"limit changed action=change after=2 connections, queue of 9 for 2s auth=token before=5 connections client=192.0.2.1:1234 pattern=x.org scope=host source=api through=b",
			"connections above the limit are being closed" + who + " pattern=x.org scope=host through=b"}, nil},
		{"DELETE", pathLimit + "x.org", "",
			[]string{"limit changed action=remove after=none auth=token before=2 connections, queue of 9 for 2s client=192.0.2.1:1234 pattern=x.org scope=host source=api through=b"}, nil},
		{"PUT", api.PathLimits + "?dry_run=true", `{"limits":[{"pattern":"y.org"}]}`, nil, nil},
		{"PUT", api.PathLimits + "?evict=true", `{"limits":[{"pattern":"*.y.org","connections":1,"shared":true}]}`, []string{
			"limit changed action=add after=1 connection, shared auth=token before=none client=192.0.2.1:1234 pattern=*.y.org scope=host source=api through=b",
			"connections above the limits are being closed" + who + " limits=1 through=b"}, nil},
		{"DELETE", "/v1/raft/peers/c", "", []string{"raft peer removed" + who + " peer=c through=b"}, nil},
		{"POST", "/v1/raft/transfer", `{"to":"b"}`, []string{"leadership handed over" + who + " through=b to=b"}, nil},
		{"DELETE", api.PathConnections + "/7", "", nil, []string{"connection closed" + who + " id=7 through=b"}},
		{"DELETE", api.PathConnections + "/7?node=a", "", []string{"connection closed" + who + " id=7 through=b"}, nil},
		{"POST", "/v1/reload", "", nil, []string{"configuration reloaded applied=[log.level]" + who + " need_restart=[] through=b"}},
		{"POST", "/v1/drain", "", nil, []string{"draining" + who + " through=b"}},
		{"POST", "/v1/leave", "", nil, []string{"leaving" + who + " through=b"}},
	} {
		w := b.nodes["b"].do(try{method: c.method, path: c.path, body: c.body, header: map[string]string{"Authorization": "Bearer secret"}})
		if w.Code > 299 {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		if diff := cmp.Diff(c.leader, leader()); diff != "" {
			t.Errorf("%s %s, the leader: %s", c.method, c.path, diff)
		}
		if diff := cmp.Diff(c.other, other()); diff != "" {
			t.Errorf("%s %s, the node that was called: %s", c.method, c.path, diff)
		}
		b.see()
	}
	// What is refused has changed nothing.
	b.nodes["b"].do(try{method: "PUT", path: pathLimit + "z.org", body: five})
	b.nodes["b"].do(try{method: "DELETE", path: api.PathConnections + "/9", header: map[string]string{"Authorization": "Bearer secret"}})
	if lines := append(leader(), other()...); len(lines) > 0 {
		t.Errorf("told of what was refused: %q", lines)
	}
}

// TestAuditOfReloads: one that has failed is told of as what it was, for the node's own settings and
// for the cluster's limits.
func TestAuditOfReloads(t *testing.T) {
	b := newBench(t, Config{}, "a")
	a := b.nodes["a"]
	lines := a.audited(t)
	const who = " through=a"
	for _, c := range []struct {
		err    error
		status int
		detail string
		line   string
	}{
		{fmt.Errorf("%w: a.hcl:1,2: no such block", ErrInvalidConfig), 422, "a.hcl:1,2", "configuration not reloaded "},
		{fmt.Errorf("%w: %w", ErrPartlyReloaded, ErrNoLeader), 503, "own settings are applied; writing the cluster's limits failed: the cluster has no leader", "configuration reloaded, but not its limits applied=[log.level] "},
		{fmt.Errorf("%w: %w", ErrPartlyReloaded, problemf(507, "disk_full", "make room")), 507, "own settings are applied; writing the cluster's limits failed: make room", "configuration reloaded, but not its limits applied=[log.level] "},
		{fmt.Errorf("%w: %w", ErrPartlyReloaded, errors.New("secret")), 500, "own settings are applied; writing the cluster's limits failed: the node failed", "configuration reloaded, but not its limits applied=[log.level] "},
	} {
		a.reload = c.err
		refused(t, a.do(try{method: "POST", path: "/v1/reload"}), c.status, c.detail)
		if got := lines(); len(got) != 1 || !strings.HasPrefix(got[0], c.line) || !strings.HasSuffix(got[0], who) {
			t.Errorf("%v: %q; want %s…%s", c.err, got, c.line, who)
		}
	}
}

// TestAuditOfConfig: a reload has no caller where a signal asked for it.
func TestAuditOfConfig(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	leader := b.nodes["a"].audited(t)
	p, _ := limit.ParsePattern("x.org")
	if _, err := b.nodes["b"].server.ReplaceConfigLimits(t.Context(), []limit.Limit{{Pattern: p, Connections: 3}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"limit changed action=add after=3 connections auth= before=none client= pattern=x.org scope=host source=config through=b"}
	if diff := cmp.Diff(want, leader()); diff != "" {
		t.Error(diff)
	}
}

// TestAuditOfMany: a write of very many limits is told up to a bound, and how many more there were.
func TestAuditOfMany(t *testing.T) {
	b := newBench(t, Config{}, "a")
	told := b.nodes["a"].audited(t)
	s := b.nodes["a"].server
	one := int64(1)
	changes := make([]api.Change, changesTold+7)
	for i := range changes {
		changes[i] = api.Change{Action: "add", Pattern: fmt.Sprintf("h%d.org", i), After: &api.Limit{Connections: &one}}
	}
	s.noteLimits(t.Context(), limit.SourceAPI, 9, changes)
	lines := told()
	if len(lines) != changesTold+1 || lines[changesTold] != "more limits changed by the same write auth= client= limits=7 source=api through=a" {
		t.Errorf("%d lines, the last: %s", len(lines), lines[len(lines)-1])
	}
}
