package fsm

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
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
				run(t, s, &Adjust{1, batch, []Adjustment{{session.ID, limit.HostConnections(name), slots}}})
			}
		}
	}
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
	if len(m.Sessions) != 3 || len(m.Sessions[0].Grants) == 0 {
		t.Errorf("%d sessions, the first with %d grants", len(m.Sessions), len(m.Sessions[0].Grants))
	}
}
