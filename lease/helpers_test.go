package lease

import (
	"testing"

	"github.com/weirproxy/weir/fsm"
)

// limit is a limit of the config's.
func limit(t testing.TB, pattern string, n int64, q fsm.Queue) fsm.Limit {
	t.Helper()
	p, err := fsm.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return fsm.Limit{Pattern: p, Connections: n, Queue: q, Source: fsm.SourceConfig}
}
