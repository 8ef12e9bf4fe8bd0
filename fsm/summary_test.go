package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

func TestSummary(t *testing.T) {
	_, state := sampleLog()
	file := snapshotOf(t, state)
	s, err := ReadSummary(iotest.OneByteReader(bytes.NewReader(file)))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(s.Version, s.Bytes == int64(len(file)), s.Index, s.GrantTerm, s.ClusterID, s.TTL)
	for _, l := range s.Limits {
		got += fmt.Sprintln(l.Source, l.Pattern, l.Connections, l.Queue, l.Shared, l.ModifyIndex)
	}
	for _, session := range s.Sessions {
		got += fmt.Sprintln(session.ID, session.Node, session.Identity, session.Keys, session.Slots)
	}
	const want = `1 true 12 1 0c1d 10s
api 10.0.0.0/8 2 {0s 0} false 6
api api.example.com 5 {2s 100} false 4
config * 30 {0s 0} false 9
config *.example.org 100 {0s 0} true 1
2 a id-a 2 64
3 b id-b 3 6
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if !slices.Equal(Effective(s.Limits), state.Table().Limits()) {
		t.Errorf("the limits that hold are %+v", Effective(s.Limits))
	}
}

func TestSummaryFindsEveryDamagedByte(t *testing.T) {
	_, state := sampleLog()
	good := snapshotOf(t, state)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := ReadSummary(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := ReadSummary(bytes.NewReader(good[:i])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := ReadSummary(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte too many: %v", err)
	}
	broken := errors.New("disk")
	for _, n := range []int{0, 30, 70, len(good)} {
		r := io.MultiReader(bytes.NewReader(good[:n]), iotest.ErrReader(broken))
		if _, err := ReadSummary(r); !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
			t.Errorf("an error after %d bytes: %v", n, err)
		}
	}
}

// TestSummaryOfWhatCannotBe: a right checksum over values that no cluster has.
func TestSummaryOfWhatCannotBe(t *testing.T) {
	n := int64(5)
	limited := func(pattern string, connections *int64, source fsmpb.Source) *fsmpb.Limit {
		return &fsmpb.Limit{Pattern: pattern, Connections: connections, Source: source}
	}
	tooMany := limit.MaxConnections + 1
	for name, test := range map[string]struct {
		limits []*fsmpb.Limit
		want   error
	}{
		"twice in a layer":  {[]*fsmpb.Limit{limited("*", &n, 1), limited("*", &n, 1)}, limit.ErrInvalid},
		"in both layers":    {[]*fsmpb.Limit{limited("*", &n, 1), limited("*", &n, 2)}, nil},
		"no layer":          {[]*fsmpb.Limit{limited("*", &n, 0)}, limit.ErrInvalid},
		"an unknown layer":  {[]*fsmpb.Limit{limited("*", &n, 3)}, ErrNewer},
		"impossible":        {[]*fsmpb.Limit{limited("*", &tooMany, 1)}, limit.ErrInvalid},
		"pattern not known": {[]*fsmpb.Limit{limited("A", &n, 1)}, ErrNewer},
	} {
		body, err := proto.Marshal(&fsmpb.Snapshot{Limits: test.limits})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSummary(bytes.NewReader(sealed(1, body))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := ReadSummary(bytes.NewReader(sealed(2, nil))); !errors.Is(err, ErrNewer) {
		t.Errorf("another version: %v", err)
	}
}

// TestSummaryIsReadInLittleMemory: a million grants cost nothing.
func TestSummaryIsReadInLittleMemory(t *testing.T) {
	session := &fsmpb.Session{Id: 1, Node: "a", Identity: "i"}
	for i := range 100_000 {
		session.Grants = append(session.Grants, &fsmpb.Grant{Key: fsmpb.KeyOf(limit.HostConnections(fmt.Sprintf("h%06d.example", i))), Slots: 2})
	}
	body, err := proto.Marshal(&fsmpb.Snapshot{Index: 1, Sessions: []*fsmpb.Session{session}})
	if err != nil {
		t.Fatal(err)
	}
	file := sealed(1, body)
	before := heapInUse()
	s, err := ReadSummary(bytes.NewReader(file))
	if err != nil || len(s.Sessions) != 1 || s.Sessions[0].Keys != 100_000 || s.Sessions[0].Slots != 200_000 {
		t.Fatalf("%+v, %v", s, err)
	}
	if grown := int64(heapInUse()) - int64(before); grown > 1<<20 {
		t.Errorf("the summary of %d bytes holds %d", len(file), grown)
	}
}

// FuzzReadSummary compares it with what the servers themselves read: both understand a body, or
// neither does, and then they agree on the limits. Only the rules between sessions and grants are
// not the summary's.
func FuzzReadSummary(f *testing.F) {
	_, s := sampleLog()
	f.Add(snapshotOf(f, s)[snapshotHeader:])
	_, rated := ratedLog()
	f.Add(snapshotOf(f, rated)[snapshotHeader:])
	f.Add(snapshotOf(f, NewState())[snapshotHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		file := sealed(1, body)
		state, errState := ReadSnapshot(bytes.NewReader(file))
		summary, err := ReadSummary(bytes.NewReader(file))
		switch {
		case errors.Is(err, ErrDamaged):
			t.Fatalf("% x: damaged, with a right checksum: %v", body, err)
		case errState != nil && err != nil:
		case errState == nil && err != nil && !errors.Is(err, limit.ErrInvalid):
			t.Fatalf("% x: a server reads it, the summary doesn't: %v", body, err)
		case errState == nil && err == nil:
			if summary.Index != state.Index() || !slices.Equal(Effective(summary.Limits), state.Table().Limits()) ||
				len(summary.Sessions) != len(state.Sessions()) {
				t.Fatalf("% x: read otherwise: %+v", body, summary)
			}
			restored := NewState()
			if r := restored.Apply(1, 1, &RestoreLimits{Limits: summary.Limits}); r.Err != nil {
				t.Fatalf("% x: can't be restored: %v", body, r.Err)
			}
		}
	})
}

// What a session holds of rates is counted apart: shares are no slots.
func TestSummaryOfRates(t *testing.T) {
	_, state := ratedLog()
	s, err := ReadSummary(bytes.NewReader(snapshotOf(t, state)))
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, session := range s.Sessions {
		got += fmt.Sprintln(session.ID, session.Keys, session.Slots, session.Rates)
	}
	if want := "2 3 66 2\n3 4 13 2\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if !slices.Equal(Effective(s.Limits), state.Table().Limits()) {
		t.Errorf("the limits that hold are %+v", Effective(s.Limits))
	}
	for name, m := range map[string]*fsmpb.Level{
		"of slots":         {Key: fsmpb.KeyOf(limit.HostConnections("a")), Level: 1},
		"of another scope": {Key: &fsmpb.Key{Scope: 7, Resource: 2}, Level: 1},
	} {
		body, err := proto.Marshal(&fsmpb.Snapshot{Levels: []*fsmpb.Level{m}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSummary(bytes.NewReader(sealed(1, body))); !errors.Is(err, ErrNewer) {
			t.Errorf("a level %s: %v", name, err)
		}
	}
}
