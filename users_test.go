package weir

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSettled(t *testing.T) {
	at := func(second, size int64) stamp { return stamp{time.Unix(second, 0), size} }
	var s settled
	for i, look := range []struct {
		path string
		now  stamp
		want bool
	}{
		{"a", at(1, 10), false}, {"a", at(1, 10), true}, {"a", at(1, 10), false},
		{"a", at(2, 4), false}, {"a", at(2, 8), false}, {"a", at(2, 11), false}, {"a", at(2, 11), true}, {"a", at(2, 11), false},
		{"a", stamp{}, false}, {"a", at(2, 11), false}, {"a", stamp{}, false}, {"a", stamp{}, true}, {"a", stamp{}, false},
		{"a", at(3, 11), false}, {"a", at(3, 11), true},
		{"b", at(4, 1), false}, {"b", at(4, 1), true}, {"b", at(4, 1), false}, {"", stamp{}, false}, {"", stamp{}, false},
	} {
		if got := s.look(look.path, look.now); got != look.want {
			t.Errorf("look %d: %t", i, got)
		}
	}
}

func TestStamp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if got := stampOf(path); got != (stamp{}) {
		t.Errorf("a file that is not there: %v", got)
	}
	if err := os.WriteFile(path, []byte("ada:x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := stampOf(path); got.size != 6 || got.modified.IsZero() {
		t.Errorf("%v", got)
	}
}
