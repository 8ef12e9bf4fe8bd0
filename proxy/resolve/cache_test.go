package resolve

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	put := func(name string, used int64, n int) {
		s := c.shard(name)
		s.mu.Lock()
		defer s.mu.Unlock()
		e := &entry{}
		e.groups[v4] = make([]netip.Addr, n)
		e.used.Store(used)
		s.put(name, e)
	}
	for i := range 2 * maxNames {
		put(fmt.Sprintf("name-%d.test", i), int64(i), 1)
	}
	if n := c.names(); n > maxNames || n < maxNames*9/10 {
		t.Errorf("%d names, want about %d", n, maxNames)
	}
	for i := range 100 { // the latest are still there
		if name := fmt.Sprintf("name-%d.test", 2*maxNames-1-i); c.shard(name).get(name) == nil {
			t.Fatalf("%s is gone though it was used lately", name)
		}
	}
	put("kept.test", 1<<40, 1)
	for i := range 2 * maxNames {
		put(fmt.Sprintf("long-%d.test", i), int64(i), maxAddrs*2)
	}
	bytes := 0
	for i := range c.shards {
		bytes += c.shards[i].bytes
	}
	if bytes > maxCacheBytes || c.shard("kept.test").get("kept.test") == nil {
		t.Errorf("%d bytes; the one used last is there: %v", bytes, c.shard("kept.test").get("kept.test") != nil)
	}
	for name, e := range c.shards[0].entries {
		c.shards[0].bytes -= e.size(name)
	}
	if c.shards[0].bytes != 0 {
		t.Errorf("%d bytes are counted of nothing", c.shards[0].bytes)
	}
}
