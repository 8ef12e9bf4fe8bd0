package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

var writeFixtures = flag.Bool("write-fixtures", false, "write testdata of this version anew: only before its first release")

// TestFixturesOfVersion1 reads a log and a snapshot as they were stored when version
// 1 was made. They must be readable, and mean the same, in every version to come.
func TestFixturesOfVersion1(t *testing.T) {
	logPath, snapPath := filepath.Join("testdata", "log-v1.bin"), filepath.Join("testdata", "snapshot-v1.bin")
	if *writeFixtures {
		writeFixture(t, logPath, snapPath)
	}
	replayed := replay(t, logPath)
	f, err := os.Open(snapPath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read, err := ReadSnapshot(f)
	if err != nil {
		t.Fatal(err)
	}
	const want = `index 12, cluster 0c1d, ttl 10s, table 9, shape 8
* 30 {0s 0} shared=false evict=false config 9
*.example.org 100 {0s 0} shared=true evict=false config 1
10.0.0.0/8 2 {0s 0} shared=false evict=true api 6
api.example.com 5 {2s 100} shared=false evict=false api 4
session 2 a id-a: *.example.org=60 api.example.com=4
session 3 b id-b: 10.0.0.1=4 ::1=1 api.example.com=1
`
	for name, s := range map[string]*State{"replayed": replayed, "read": read} {
		if got := describe(s); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !bytes.Equal(snapshotOf(t, replayed), snapshotOf(t, read)) {
		t.Error("the log and the snapshot give different states")
	}
}

// TestFixturesOfVersion2 reads a log with what version 2 added.
func TestFixturesOfVersion2(t *testing.T) {
	path := filepath.Join("testdata", "log-v2.bin")
	if *writeFixtures {
		log, _ := sampleLog()
		log = append(log, &RestoreLimits{Limits: []limit.Limit{
			{Pattern: pattern("*"), Connections: 25, Source: limit.SourceConfig},
			{Pattern: pattern("*"), Connections: 7, Source: limit.SourceAPI, Queue: limit.Queue{Timeout: time.Second, Size: 3}},
			{Pattern: pattern("*.example.org"), Connections: limit.Unlimited, Source: limit.SourceAPI},
		}})
		if err := os.WriteFile(path, logOf(log...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := replay(t, path)
	const want = `index 13, cluster 0c1d, ttl 10s, table 13, shape 13
* 7 {1s 3} shared=false evict=false api 13
*.example.org -1 {0s 0} shared=false evict=false api 13
session 2 a id-a: *.example.org=60 api.example.com=4
session 3 b id-b: 10.0.0.1=4 ::1=1 api.example.com=1
`
	if got := describe(s); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if below := s.ConfigLimits(); len(below) != 1 || below[0].Connections != 25 {
		t.Errorf("the config's layer is %+v", below)
	}
}

// ratedLog is a log with all that version 3 added, and the state after it.
func ratedLog() ([]Command, *State) {
	log, s := sampleLog()
	limited := func(scope limit.Scope, pattern string, n int64, r limit.Rate, b limit.Bandwidth) limit.Limit {
		return limit.Limit{Pattern: limittest.Scoped(scope, pattern), Connections: n, Requests: r, Bandwidth: b, Source: limit.SourceConfig}
	}
	key := func(scope limit.Scope, r limit.Resource, name string) limit.Key {
		return limit.Key{Scope: scope, Resource: r, Name: name}
	}
	reported := limited(limit.ScopeKey, "tenant/*", 9, limit.Rate{}, limit.Bandwidth{})
	reported.Shared, reported.Report = true, true
	a, b := uint64(2), uint64(3)
	client, upload, total, left := key(limit.ScopeClient, limit.Requests, "10.0.0.1"), key(limit.ScopeTotal, limit.Upload, ""),
		key(limit.ScopeTotal, limit.Connections, ""), key(limit.ScopeUser, limit.Requests, "ann")
	more := []Command{
		&ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{
			limited(limit.ScopeHost, "api.example.com", 5, limit.Rate{Thousandths: 10_000, Per: time.Second, Burst: 20}, limit.Bandwidth{}),
			limited(limit.ScopeClient, "10.0.0.0/8", limit.Unlimited, limit.Rate{Thousandths: 500, Per: time.Minute, Burst: 4}, limit.Bandwidth{}),
			limited(limit.ScopeUser, "*", limit.Unlimited, limit.Rate{Thousandths: 1000, Per: time.Hour, Burst: 2}, limit.Bandwidth{}),
			limited(limit.ScopeTotal, "", 100, limit.Rate{}, limit.Bandwidth{Upload: 1_000_000, Burst: 8192}),
			limited(limit.ScopeConnection, "", limit.Unlimited, limit.Rate{}, limit.Bandwidth{Download: 5000}),
			reported,
		}},
		&Adjust{Term: 1, Batch: 3, Adjustments: []Adjustment{
			{Session: a, Key: client, Delta: 500_000}, {Session: b, Key: client, Delta: 250_000}, {Session: a, Key: upload, Delta: 999_999},
			{Session: b, Key: total, Delta: 7}, {Session: a, Key: key(limit.ScopeKey, limit.Connections, "tenant/*"), Delta: 2},
			{Session: a, Key: left, Delta: limit.Shares}, {Session: b, Key: key(limit.ScopeUser, limit.Requests, "bob"), Delta: 1000},
		}},
		&Adjust{Term: 1, Batch: 4, Adjustments: []Adjustment{
			{Session: a, Key: client, Delta: -250_000, Level: 700_000}, {Session: b, Key: upload, Delta: 5},
			{Session: a, Key: left, Delta: -limit.Shares, Level: 1_500_000}, {Session: b, Key: key(limit.ScopeUser, limit.Requests, "bob"), Delta: -1000},
		}},
		&Adjust{Term: 1, Batch: 5, Forget: []limit.Key{key(limit.ScopeUser, limit.Requests, "bob"), client}},
		&PutLimit{Limit: limit.Limit{Pattern: limittest.Scoped(limit.ScopeUser, "carol"), Connections: 0, Source: limit.SourceAPI}},
		&DeleteLimit{Pattern: limittest.Scoped(limit.ScopeUser, "carol")},
	}
	for i, c := range more {
		if r := s.Apply(uint64(len(log)+i+1), 1, c); r.Err != nil {
			panic(r.Err)
		}
	}
	return append(log, more...), s
}

// TestFixturesOfVersion3 reads a log and a snapshot with what version 3 added.
func TestFixturesOfVersion3(t *testing.T) {
	logPath, snapPath := filepath.Join("testdata", "log-v3.bin"), filepath.Join("testdata", "snapshot-v3.bin")
	if *writeFixtures {
		log, s := ratedLog()
		if err := errors.Join(os.WriteFile(logPath, logOf(log...), 0o644), os.WriteFile(snapPath, snapshotOf(t, s), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	replayed := replay(t, logPath)
	file, err := os.ReadFile(snapPath)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadSnapshot(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	const want = `index 18, cluster 0c1d, ttl 10s, table 18, shape 18
10.0.0.0/8 2 {0s 0} shared=false evict=true api 6
api.example.com 5 {2s 100} shared=false evict=false api 4
10.0.0.0/8 -1 {0s 0} shared=false evict=false config 13
* -1 {0s 0} shared=false evict=false config 13
 100 {0s 0} shared=false evict=false config 13
tenant/* 9 {0s 0} shared=true evict=false config 13
 -1 {0s 0} shared=false evict=false config 13
session 2 a id-a: *.example.org=60 api.example.com=4 client 10.0.0.1 requests=250000 total upload=999999 key tenant/* connections=2
session 3 b id-b: 10.0.0.1=4 ::1=1 api.example.com=1 client 10.0.0.1 requests=250000 total connections=7 total upload=1
10.0.0.0/8 requests=/0 bandwidth={0 0 0} report=false
api.example.com requests=/0 bandwidth={0 0 0} report=false
client 10.0.0.0/8 requests=0.5/m/4 bandwidth={0 0 0} report=false
user * requests=1/h/2 bandwidth={0 0 0} report=false
total requests=/0 bandwidth={1000000 0 8192} report=false
key tenant/* requests=/0 bandwidth={0 0 0} report=true
connection requests=/0 bandwidth={0 5000 0} report=false
level of client 10.0.0.1 requests: 1700000, granted 500000, burst 4000000
level of user ann requests: 1500000, granted 0, burst 2000000
level of total upload: 0, granted 1000000, burst 8192
kept: user ann requests
`
	for name, s := range map[string]*State{"replayed": replayed, "read": read} {
		if got := describe(s) + describeRates(s); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.LogVersion() != 3 {
			t.Errorf("%s: needs log version %d", name, s.LogVersion())
		}
	}
	if !bytes.Equal(snapshotOf(t, replayed), file) {
		t.Error("the log and the snapshot give different states")
	}
}

// A snapshot that says nothing of bursts is read, too: what is held counts from now on.
func TestSnapshotWithoutBursts(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("testdata", "snapshot-v3-without-bursts.bin"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadSnapshot(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[limit.Key]int64{
		{Scope: limit.ScopeClient, Resource: limit.Requests, Name: "10.0.0.1"}: 4 * limit.TokenGrains,
		{Scope: limit.ScopeTotal, Resource: limit.Upload}:                      8192,
		{Scope: limit.ScopeUser, Resource: limit.Requests, Name: "ann"}:        0, // nobody holds any of it
	} {
		if got := s.LargestBurst(key); got != want {
			t.Errorf("the largest burst of %v is %d, want %d", key, got, want)
		}
	}
}

// describeRates writes as text what describe leaves out.
func describeRates(s *State) string {
	var b strings.Builder
	for _, l := range s.Table().Limits() {
		fmt.Fprintf(&b, "%s requests=%v/%d bandwidth=%v report=%v\n", l.Name(), l.Requests, l.Requests.Burst, l.Bandwidth, l.Report)
	}
	for _, key := range s.grants.keys() {
		if key.Resource.IsRate() {
			fmt.Fprintf(&b, "level of %v: %d, granted %d, burst %d\n", key, s.FreeLevel(key), s.Granted(key), s.LargestBurst(key))
		}
	}
	s.Kept(func(k limit.Key) bool { fmt.Fprintf(&b, "kept: %v\n", k); return true })
	return b.String()
}

// replay applies the entries in a file to a new state.
func replay(t *testing.T, path string) *State {
	t.Helper()
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewState()
	for index := uint64(1); len(log) > 0; index++ {
		n, size := binary.Uvarint(log)
		if size <= 0 || n > uint64(len(log)-size) {
			t.Fatal("the fixture is torn")
		}
		c, err := Decode(log[size : size+int(n)])
		if err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		if r := s.Apply(index, 1, c); r.Err != nil {
			t.Fatalf("entry %d: %v", index, r.Err)
		}
		log = log[size+int(n):]
	}
	return s
}

func writeFixture(t *testing.T, logPath, snapPath string) {
	log, s := sampleLog()
	if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(logPath, logOf(log...), 0o644), os.WriteFile(snapPath, snapshotOf(t, s), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// describe writes a state as text.
func describe(s *State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "index %d, cluster %s, ttl %v, table %d, shape %d\n", s.Index(), s.ClusterID(), s.TTL(), s.Table().Index, s.Table().ShapeIndex)
	for _, l := range s.Table().Limits() {
		fmt.Fprintf(&b, "%s %d %v shared=%v evict=%v %v %d\n", l.Pattern, l.Connections, l.Queue, l.Shared, l.Evict, l.Source, l.ModifyIndex)
	}
	for _, session := range s.Sessions() {
		fmt.Fprintf(&b, "session %d %s %s:", session.ID, session.Node, session.Identity)
		for _, g := range s.SessionGrants(session.ID) {
			fmt.Fprintf(&b, " %v=%d", g.Key, g.Delta)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
