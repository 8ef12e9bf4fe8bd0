package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

// sampleLog is a log with something of everything, and the state after it.
func sampleLog() ([]Command, *State) {
	limited := func(p string, n int64, source limit.Source) limit.Limit {
		return limit.Limit{Pattern: pattern(p), Connections: n, Source: source}
	}
	shared := limited("*.example.org", 100, limit.SourceConfig)
	shared.Shared = true
	queued := limited("api.example.com", 5, limit.SourceAPI)
	queued.Queue = limit.Queue{Timeout: 2 * time.Second, Size: 100}
	lowered := limited("10.0.0.0/8", 2, limit.SourceAPI)
	lowered.Evict = true
	a, b, hosts := uint64(2), uint64(3), []limit.Key{limit.HostConnections("api.example.com"), limit.HostConnections("*.example.org"), limit.HostConnections("10.0.0.1")}
	log := []Command{
		&Init{ClusterID: "0c1d", TTL: 10 * time.Second, Limits: []limit.Limit{limited("*", 25, limit.SourceConfig), shared, limited("10.0.0.0/8", 4, limit.SourceConfig)}},
		&OpenSession{1, "a", "id-a"},
		&OpenSession{1, "b", "id-b"},
		&PutLimit{Limit: queued},
		&Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{{Session: a, Key: hosts[0], Delta: 3}, {Session: b, Key: hosts[0], Delta: 3}, {Session: a, Key: hosts[1], Delta: 60}, {Session: b, Key: hosts[2], Delta: 4}, {Session: b, Key: limit.HostConnections("::1"), Delta: 1}}},
		&PutLimit{Limit: lowered},
		&PutLimit{Limit: limited("gone.example:443", limit.Unlimited, limit.SourceAPI)},
		&DeleteLimit{Pattern: pattern("gone.example:443"), Precondition: Precondition{MustExist: true}},
		&ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{limited("*", 30, limit.SourceConfig), shared}},
		&OpenSession{1, "c", "id-c"},
		&CloseSessions{1, []uint64{10}, CloseLeft},
		&Adjust{Term: 1, Batch: 2, Adjustments: []Adjustment{{Session: b, Key: hosts[0], Delta: -1}, {Session: a, Key: hosts[0], Delta: 1}}},
	}
	s := NewState()
	for i, c := range log {
		if r := s.Apply(uint64(i+1), 1, c); r.Err != nil {
			panic(r.Err)
		}
	}
	return log, s
}

func TestSnapshotRoundTrip(t *testing.T) {
	_, full := sampleLog()
	for name, s := range map[string]*State{"empty": NewState(), "full": full} {
		b := snapshotOf(t, s)
		got, err := ReadSnapshot(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(snapshotOf(t, got), b) {
			t.Errorf("%s: the state read is another", name)
		}
		for _, l := range s.Table().Limits() {
			if g, ok := got.Table().Get(l.Pattern); !ok || *g != l {
				t.Errorf("%s: limit %+v was read as %+v", name, l, g)
			}
		}
	}
}

// TestEveryDamagedByteIsFound flips each byte, and cuts the file at each length.
func TestEveryDamagedByteIsFound(t *testing.T) {
	_, s := sampleLog()
	good := snapshotOf(t, s)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := ReadSnapshot(bytes.NewReader(bad)); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "remove") {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := ReadSnapshot(bytes.NewReader(good[:i])); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := ReadSnapshot(iotest.OneByteReader(bytes.NewReader(good))); err != nil {
		t.Errorf("read byte by byte: %v", err)
	}
	broken := errors.New("disk")
	for _, r := range []io.Reader{iotest.ErrReader(broken), io.MultiReader(bytes.NewReader(good[:70]), iotest.ErrReader(broken)), io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken))} {
		if _, err := ReadSnapshot(r); !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
			t.Errorf("an error of the disk: %v", err)
		}
	}
}

// sealed makes a snapshot with a right checksum of any body.
func sealed(version uint32, body []byte) []byte {
	b := []byte(snapshotMagic)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	sum := sha256.Sum256(append(bytes.Clone(b), body...))
	return append(append(b, sum[:]...), body...)
}

func TestSnapshotThatIsNewerOrWrong(t *testing.T) {
	marshal := func(m *fsmpb.Snapshot) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key := &fsmpb.Key{Scope: 1, Resource: 1, Name: "a.example"}
	session := func(grants ...*fsmpb.Grant) []byte {
		return marshal(&fsmpb.Snapshot{Index: 5, Sessions: []*fsmpb.Session{{Id: 4, Node: "a", Identity: "i", Grants: grants}}})
	}
	limits := func(list ...*fsmpb.Limit) []byte {
		return marshal(&fsmpb.Snapshot{Index: 5, LimitsIndex: 5, ShapeIndex: 5, Limits: list})
	}
	levels := func(key *fsmpb.Key, grants []*fsmpb.Grant, list ...int64) []byte {
		m := &fsmpb.Snapshot{Index: 5, Sessions: []*fsmpb.Session{{Id: 4, Node: "a", Identity: "i", Grants: grants}}}
		for _, n := range list {
			m.Levels = append(m.Levels, &fsmpb.Level{Key: key, Level: n})
		}
		return marshal(m)
	}
	total := &fsmpb.Key{Scope: 4, Resource: 2}
	future := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
	for name, c := range map[string]struct {
		b     []byte
		newer bool
		want  string
	}{
		"version":           {sealed(2, nil), true, "version 2"},
		"unknown field":     {sealed(1, future), true, "a field of Snapshot"},
		"in session":        {sealed(1, protowire.AppendBytes(protowire.AppendTag(nil, 9, protowire.BytesType), future)), true, "a field of Session"},
		"no protobuf":       {sealed(1, []byte{0xff}), true, "no protobuf"},
		"scope":             {sealed(1, session(&fsmpb.Grant{Key: &fsmpb.Key{Scope: 9, Resource: 1}, Slots: 1})), true, "scope 9"},
		"key twice":         {sealed(1, session(&fsmpb.Grant{Key: key, Slots: 1}, &fsmpb.Grant{Key: key, Slots: 1})), true, "twice"},
		"session twice":     {sealed(1, append(session(), session()...)), true, "session 4 twice"},
		"limit twice":       {sealed(1, limits(&fsmpb.Limit{Pattern: "a", Source: 1}, &fsmpb.Limit{Pattern: "a", Source: 1})), true, "twice"},
		"limit's source":    {sealed(1, limits(&fsmpb.Limit{Pattern: "a"})), true, "source 0"},
		"pattern":           {sealed(1, limits(&fsmpb.Limit{Pattern: "A", Source: 1})), true, "pattern"},
		"level's scope":     {sealed(1, levels(&fsmpb.Key{Scope: 7, Resource: 2}, nil, 1)), true, "scope 7"},
		"level of slots":    {sealed(1, levels(key, nil, 1)), true, "no rate"},
		"level twice":       {sealed(1, levels(total, nil, 1, 1)), true, "twice"},
		"no level":          {sealed(1, levels(total, []*fsmpb.Grant{{Key: total, Slots: 1}})), true, "no level"},
		"in level":          {sealed(1, protowire.AppendBytes(protowire.AppendTag(nil, 10, protowire.BytesType), append(levelOf(t, total), future...))), true, "a field of Level"},
		"negative level":    {sealed(1, levels(total, nil, -1)), false, "a level of -1"},
		"huge level":        {sealed(1, levels(total, nil, 1<<62)), false, "more than any limit"},
		"negative burst":    {sealed(1, marshal(&fsmpb.Snapshot{Levels: []*fsmpb.Level{{Key: total, Burst: -1}}})), false, "a burst of -1"},
		"too many shares":   {sealed(1, levels(total, []*fsmpb.Grant{{Key: total, Slots: 1 << 40}}, 0)), false, "slots"},
		"name of total":     {sealed(1, levels(&fsmpb.Key{Scope: 4, Resource: 2, Name: "x"}, nil, 1)), false, "not canonical"},
		"limit's scope":     {sealed(1, limits(&fsmpb.Limit{Pattern: "a", Source: 1, Scope: 9})), true, "limit scope 9"},
		"two scopes":        {sealed(1, limits(&fsmpb.Limit{Pattern: "a", Source: 1, ModifyIndex: 1}, &fsmpb.Limit{Pattern: "a", Source: 1, Scope: 3, ModifyIndex: 1, Shared: true})), false, "shared has no meaning"},
		"negative grant":    {sealed(1, session(&fsmpb.Grant{Key: key, Slots: -1})), false, "holds -1 slots"},
		"huge grant":        {sealed(1, session(&fsmpb.Grant{Key: key, Slots: 1 << 62})), false, "slots"},
		"key not canonical": {sealed(1, session(&fsmpb.Grant{Key: &fsmpb.Key{Scope: 1, Resource: 1, Name: "A"}, Slots: 1})), false, "not canonical"},
		"session's index":   {sealed(1, marshal(&fsmpb.Snapshot{Index: 3, Sessions: []*fsmpb.Session{{Id: 4, Node: "a", Identity: "i"}}})), false, "session 4"},
		"limit's value":     {sealed(1, limits(&fsmpb.Limit{Pattern: "a", Source: 1, Shared: true, ModifyIndex: 1})), false, "shared has no meaning"},
		"cluster":           {sealed(1, marshal(&fsmpb.Snapshot{ClusterId: "x"})), false, "ttl"},
	} {
		_, err := ReadSnapshot(bytes.NewReader(c.b))
		if err == nil || errors.Is(err, ErrNewer) != c.newer || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	huge := sealed(1, nil)
	binary.BigEndian.PutUint64(huge[12:], 1<<40)
	if _, err := ReadSnapshot(bytes.NewReader(huge)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a length of 1 TiB: %v", err)
	}
}

func levelOf(t *testing.T, key *fsmpb.Key) []byte {
	b, err := proto.Marshal(&fsmpb.Level{Key: key, Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzReadSnapshot: a body with a right checksum never panics or costs memory beyond its size. What
// is accepted holds the invariants, is written as it was read, and goes on like the state that
// wrote it.
func FuzzReadSnapshot(f *testing.F) {
	_, s := sampleLog()
	f.Add(snapshotOf(f, s)[snapshotHeader:])
	_, rated := ratedLog()
	f.Add(snapshotOf(f, rated)[snapshotHeader:])
	f.Add(snapshotOf(f, NewState())[snapshotHeader:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		var s *State
		var err error
		if n := allocated(func() { s, err = ReadSnapshot(bytes.NewReader(sealed(1, body))) }); n > mostAllocated(body) {
			t.Fatalf("reading %d bytes takes %d", len(body), n)
		}
		if err != nil {
			if s != nil || errors.Is(err, ErrCorrupt) {
				t.Fatalf("% x: a state, or damage, with %v", body, err)
			}
			return
		}
		if err := s.Check(); err != nil {
			t.Fatalf("% x: %v", body, err)
		}
		written := snapshotOf(t, s)
		again, err := ReadSnapshot(bytes.NewReader(written))
		if err != nil || !bytes.Equal(snapshotOf(t, again), written) {
			t.Fatalf("% x: read again: %v", body, err)
		}
		for _, c := range everyCommand() {
			index := s.Index() + 1
			if index == 0 {
				return
			}
			if a, b := s.Apply(index, 3, c), again.Apply(index, 3, c); fmt.Sprint(a) != fmt.Sprint(b) {
				t.Fatalf("% x: then %#v answers %v, and read again %v", body, c, a, b)
			}
			if err := s.Check(); err != nil {
				t.Fatalf("% x: after %#v: %v", body, c, err)
			}
		}
		if !bytes.Equal(snapshotOf(t, s), snapshotOf(t, again)) {
			t.Fatalf("% x: the states went apart", body)
		}
	})
}

// FuzzSnapshotFile: any file gives a state that is written as a snapshot again, or an error that
// says what to do.
func FuzzSnapshotFile(f *testing.F) {
	_, s := sampleLog()
	full := snapshotOf(f, s)
	f.Add(full)
	f.Add(full[:snapshotHeader])
	f.Add(full[:len(full)-1])
	f.Add(sealed(2, nil))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, file []byte) {
		var s *State
		var err error
		if n := allocated(func() { s, err = ReadSnapshot(bytes.NewReader(file)) }); n > mostAllocated(file) {
			t.Fatalf("reading %d bytes takes %d", len(file), n)
		}
		switch {
		case err == nil:
			if again, err := ReadSnapshot(bytes.NewReader(snapshotOf(t, s))); err != nil || again.Index() != s.Index() {
				t.Fatalf("% x: read again: %v", file, err)
			}
		case s != nil || !strings.Contains(err.Error(), "remove") && !strings.Contains(err.Error(), "upgrade"):
			t.Fatalf("% x: %v", file, err)
		}
	})
}

// FuzzLog: whatever stands in a log, after each entry the invariants hold, what was refused has
// changed nothing, no key is granted beyond its limit anew, and a server that restores a snapshot
// first ends up the same. The input is entries, each behind its length.
func FuzzLog(f *testing.F) {
	log, _ := sampleLog()
	f.Add(logOf(log...))
	rated, _ := ratedLog()
	f.Add(logOf(rated...))
	for commands := range slices.Chunk(everyCommand(), 10) {
		f.Add(logOf(commands...))
	}
	fixture, err := os.ReadFile(filepath.Join("testdata", "log-v1.bin"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fixture)
	f.Fuzz(func(t *testing.T, log []byte) {
		s := NewState()
		term := uint64(1)
		for entries := 0; entries < 40; entries++ {
			n, size := binary.Uvarint(log)
			if size <= 0 || n > uint64(len(log)-size) {
				return
			}
			c, err := Decode(log[size : size+int(n)])
			log = log[size+int(n):]
			if err == nil {
				term = max(term, termOf(c))
				s = applyWatched(t, s, term, c)
			}
		}
	})
}

func termOf(c Command) uint64 {
	switch c := c.(type) {
	case *OpenSession:
		return c.Term
	case *CloseSessions:
		return c.Term
	case *Adjust:
		return c.Term
	}
	return 0
}

// applyWatched applies one entry to s and to a copy that goes through a snapshot, and returns the
// copy.
func applyWatched(t *testing.T, s *State, term uint64, c Command) *State {
	t.Helper()
	before := snapshotOf(t, s)
	restored, err := ReadSnapshot(bytes.NewReader(before))
	if err != nil {
		t.Fatal(err)
	}
	granted, levels := map[limit.Key]int64{}, map[limit.Key]int64{}
	for key, h := range s.grants {
		granted[key], levels[key] = h.total, h.level
	}
	index := s.Index() + 1
	r, twin := s.Apply(index, term, c), restored.Apply(index, term, c)
	if fmt.Sprint(r) != fmt.Sprint(twin) || !bytes.Equal(snapshotOf(t, s), snapshotOf(t, restored)) {
		t.Fatalf("%#v: the state answers %v, after a restore %v", c, r, twin)
	}
	if err := s.Check(); err != nil {
		t.Fatalf("%#v: %v", c, err)
	}
	if v := VersionOf(c); s.LogVersion() == 3 && len(granted) == 0 && len(s.grants) > 0 && v < 3 {
		t.Fatalf("%#v is of version %d, and made grants of 3", c, v)
	}
	_, adjusts := c.(*Adjust)
	for k, h := range s.grants {
		l := s.Table().Governing(k)
		if h.total > granted[k] && h.total > l.Capacity(k.Resource) {
			t.Fatalf("%#v: %v went from %d to %d under %+v", c, k, granted[k], h.total, l)
		}
		if before, known := levels[k]; known && h.level != before && !adjusts || h.level > max(before, l.BurstGrains(k.Resource)) {
			t.Fatalf("%#v: the level of %v went from %d to %d under %+v", c, k, before, h.level, l)
		}
	}
	if r.Err != nil {
		s.index = index - 1
		if !bytes.Equal(snapshotOf(t, s), before) {
			t.Fatalf("%#v was refused (%v), and changed something", c, r.Err)
		}
	}
	return restored
}

func logOf(commands ...Command) (log []byte) {
	for _, c := range commands {
		entry := Encode(c)
		log = append(binary.AppendUvarint(log, uint64(len(entry))), entry...)
	}
	return log
}

// limitedWriter fails once n bytes are through.
type limitedWriter struct {
	n   int
	err error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, w.err
	}
	return len(b), nil
}

func TestWriteSnapshotReportsAFullDisk(t *testing.T) {
	_, s := sampleLog()
	full := errors.New("no space left on device")
	for _, n := range []int{0, 60, len(snapshotOf(t, s)) - 1} {
		if err := s.WriteSnapshot(&limitedWriter{n, full}); !errors.Is(err, full) {
			t.Errorf("full after %d bytes: %v", n, err)
		}
	}
}
