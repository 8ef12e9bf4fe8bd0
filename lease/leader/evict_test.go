package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// Where limits are written all the time, none of which asks to evict, the leader remembers only the
// last tables.
func TestSeenTablesAreForgotten(t *testing.T) {
	d := newDesk(t, clientRate(t, "10/s", 10))
	for i := range 1000 {
		d.apply(&fsm.PutLimit{Limit: clientRate(t, "10/s", int64(11+i%2))})
		d.now += time.Second
		d.alloc.LimitsChanged(d.now, d.state)
	}
	if n := len(d.alloc.evictions.seen); n > 20 {
		t.Errorf("%d tables are remembered", n)
	}
}
