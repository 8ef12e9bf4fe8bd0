package fsm

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// What is encoded by hand is what the library encodes: the same bytes, whatever the names and
// numbers.
func TestSnapshotIsCanonicalProtobuf(t *testing.T) {
	s := NewState()
	run(t, s, &Init{ClusterID: "c", TTL: 3e9}, put("*", 1_000_000, limit.SourceAPI), put("a.org:443", 900_000, limit.SourceConfig))
	for _, node := range []string{"", "a", "\xff\u00e9", "c"} {
		if node != "" {
			run(t, s, &OpenSession{1, node, "identity of " + node})
		}
	}
	var batch uint64
	for _, session := range s.Sessions() {
		for _, name := range []string{"a.org:443", "b.org", "2001:db8::1", "with-a-long-name." + string(bytes.Repeat([]byte("x"), 200)) + ".org"} {
			for _, slots := range []int64{1, 127, 200_000} {
				batch++
				run(t, s, &Adjust{Term: 1, Batch: batch, Adjustments: []Adjustment{{Session: session.ID, Key: limit.HostConnections(name), Delta: slots}}})
			}
		}
	}
	total := limittest.Scoped(limit.ScopeTotal, "")
	run(t, s, &PutLimit{Limit: limit.Limit{
		Pattern: total, Connections: 5, Requests: limit.Rate{Thousandths: 1, Per: time.Hour, Burst: 10_000_000},
		Bandwidth: limit.Bandwidth{Upload: 1e12, Download: 1}, Report: true, Source: limit.SourceConfig,
	}}, &PutLimit{Limit: limit.Limit{
		Pattern: limittest.Scoped(limit.ScopeUser, "*"), Connections: limit.Unlimited, Requests: limit.Rate{Thousandths: 1, Per: time.Hour, Burst: 1}, Source: limit.SourceAPI,
	}})
	for _, key := range []limit.Key{
		{Scope: limit.ScopeTotal, Resource: limit.Connections}, {Scope: limit.ScopeTotal, Resource: limit.Requests}, {Scope: limit.ScopeTotal, Resource: limit.Upload},
		{Scope: limit.ScopeTotal, Resource: limit.Download}, {Scope: limit.ScopeUser, Resource: limit.Requests, Name: "ünal"},
	} {
		batch++
		run(t, s, &Adjust{Term: 1, Batch: batch, Adjustments: []Adjustment{{Session: s.Sessions()[0].ID, Key: key, Delta: 3}}})
	}
	// One is kept for its level alone, which is none.
	unal := limit.Key{Scope: limit.ScopeUser, Resource: limit.Requests, Name: "ünal"}
	run(t, s, &Adjust{Term: 1, Batch: batch + 1, Adjustments: []Adjustment{{Session: s.Sessions()[1].ID, Key: unal, Delta: limit.Shares}}},
		&CloseSessions{Term: 1, Sessions: []uint64{s.Sessions()[0].ID, s.Sessions()[1].ID}, Reason: CloseLeft})
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	body := b.Bytes()[snapshotHeader:]
	var m fsmpb.Snapshot
	if err := proto.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	again, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body, again) {
		var back fsmpb.Snapshot
		_ = proto.Unmarshal(again, &back)
		t.Errorf("encoded in %d bytes, by the library in %d; %s", len(body), len(again), cmp.Diff(&m, &back, protocmp.Transform()))
	}
	if len(m.Sessions) != 1 || len(m.Sessions[0].Grants) == 0 || len(m.Levels) != 4 {
		t.Errorf("%d sessions, the first with %d grants, and %d levels", len(m.Sessions), len(m.Sessions[0].Grants), len(m.Levels))
	}
}
