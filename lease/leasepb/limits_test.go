package leasepb

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// A table that a node kept reads back as it was; anything else is an error.
func FuzzUnmarshalTable(f *testing.F) {
	b, err := MarshalTable(limit.NewTable(5, 4, []limit.Limit{
		{Pattern: pattern(f, "*.x.org"), Connections: 3, Queue: limit.Queue{Timeout: time.Second, Size: 2}, Source: limit.SourceConfig},
		{Pattern: pattern(f, "up"), Source: limit.SourceConfig},
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := UnmarshalTable(b)
		if err != nil {
			return
		}
		again, err := MarshalTable(table)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := UnmarshalTable(again)
		if err != nil || twice.Index != table.Index || len(twice.Limits()) != len(table.Limits()) {
			t.Fatalf("a table does not survive: %v", err)
		}
	})
}

func pattern(t testing.TB, s string) limit.Pattern {
	t.Helper()
	p, err := limit.ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
