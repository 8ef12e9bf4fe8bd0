package lease

import (
	"fmt"
	"sync"
	"testing"

	"github.com/weirproxy/weir/limit"
)

// However finding, adding and removing interleave, what has been removed is not found once all is
// quiet, and what is there is found: also where names share a place.
func TestByName(t *testing.T) {
	var s byName
	keys := make([]limit.Key, 3*foundPools)
	for i := range keys {
		keys[i] = limit.HostConnections(fmt.Sprintf("host-%d", i))
	}
	for round := range 200 {
		some := keys[round%len(keys):]
		some = some[:min(len(some), 1+round%7)]
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				for range 50 {
					for _, key := range some {
						if p := s.find(key.Name); p != nil && p.key != key {
							t.Errorf("asked for %v, found %v", key, p.key)
						}
					}
				}
			})
		}
		there := map[limit.Key]*pool{}
		for i := range 40 {
			for _, key := range some {
				if p := there[key]; p != nil {
					s.remove(p)
					delete(there, key)
				} else if i < 39 || round%2 == 0 {
					there[key] = newPool(key)
					s.add(there[key])
				}
			}
		}
		readers.Wait()
		for _, key := range some {
			if p := s.find(key.Name); p != there[key] || p != s.load(key.Name) {
				t.Fatalf("round %d: %v is found as %p, and is %p", round, key, p, there[key])
			}
			if p := there[key]; p != nil {
				s.remove(p)
			}
			if p := s.find(key.Name); p != nil {
				t.Fatalf("round %d: %v is found, and was removed", round, key)
			}
		}
	}
	for _, key := range keys {
		s.add(newPool(key))
	}
	for range 2 {
		for _, key := range keys {
			if p := s.find(key.Name); p == nil || p.key != key {
				t.Fatalf("%v is not found", key)
			}
		}
	}
}
