package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// namesVariable is how many host names TestManyNames asks for, such as 1000000 in place of a few.
const namesVariable = "WEIR_E2E_NAMES"

const (
	namesTTL     = 10 * time.Second
	namesWorkers = 32
	// namesRenewed is how much time a session has left when it is renewed; namesLate how much later
	// that may be.
	namesRenewed = namesTTL - namesTTL/4
	namesLate    = namesTTL / 10
	// namesKept bounds the hosts that a node remembers without a slot for them, and namesFor how long
	// it remembers one after its last use.
	namesKept = 16_384
	namesFor  = 10 * time.Minute
	// namesMemory is what a node may need for namesKept hosts, their addresses, and the garbage of
	// asking for others.
	namesMemory = 160 << 20
)

// namesLimits has a queue, so that a leader on a busy machine may take its time.
const namesLimits = `  host "*" {
    connections = 10
    queue {
      timeout = "20s"
      size    = 1000
    }
  }
`

// TestManyNames: a worker that asks for ever new host names, each of which is under a limit, costs
// a node no more memory than the hosts that it remembers, delays none of its keep-alives, and
// leaves nothing behind.
func TestManyNames(t *testing.T) {
	needRoot(t)
	t.Parallel()
	total, long := 3000, os.Getenv(namesVariable)
	if long != "" {
		var err error
		if total, err = strconv.Atoi(long); err != nil {
			t.Fatalf("%s: %v", namesVariable, err)
		}
	}
	names := newNameServer(t)
	c := startCluster(t, shape{
		ttl: namesTTL, limits: namesLimits, prepare: resolvingBy(t, "nameserver "+names.addr+"\n"),
	})
	up := c.upstream(t)
	names.set("*.names.test", nameAnswer{addrs: []string{up.name}})
	n := c.nodes[0]
	before := rss(t, n)
	slow := slowness(t)
	watch := watchNode(t, n)
	begun := time.Now()
	failed := askForNames(t.Context(), n, total, up.Port())
	took := time.Since(begun)
	most, least := watch()
	t.Logf("%d names in %v, %.0f a second; memory: %d MiB before, %d MiB at most; the session had at least %v left",
		total, took.Round(time.Second), float64(total)/took.Seconds(), before>>20, most>>20, least.Round(time.Millisecond))
	if failed > 0 {
		t.Errorf("%d connections failed", failed)
	}
	slow = max(slow, slowness(t))
	if late := namesRenewed - least; late > time.Duration(slow*float64(namesLate)) {
		t.Errorf("a keep-alive came %v late, on a machine that is %.1f times slower; want at most %v", late, slow, namesLate)
	}
	if most > before+namesMemory {
		t.Errorf("that is %d MiB for the names; want at most %d", (most-before)>>20, namesMemory>>20)
	}
	if long == "" {
		return
	}
	eventually(t, time.Minute, "the names beyond a bound are forgotten", func() error { return listsAtMost(n, namesKept) })
	eventually(t, namesFor+2*time.Minute, "all names are forgotten", func() error { return listsAtMost(n, 0) })
	t.Logf("all forgotten: %d MiB", rss(t, n)>>20)
}

// askForNames opens a tunnel to each of so many names, and ends it. It returns how many failed.
func askForNames(ctx context.Context, n *node, total, port int) int64 {
	var next, failed atomic.Int64
	var all sync.WaitGroup
	for range namesWorkers {
		all.Go(func() {
			for i := next.Add(1); i <= int64(total) && ctx.Err() == nil; i = next.Add(1) {
				target := net.JoinHostPort(fmt.Sprintf("n%d.names.test", i), strconv.Itoa(port))
				tunnel, err := load.Connect(ctx, n.proxy, target)
				if err == nil {
					err = tunnel.HoldAndEnd(0)
				}
				if err != nil {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	return failed.Load()
}

// watchNode looks at a node until the function that it returns is called: the most memory that it
// had, and the least time that its session had left.
func watchNode(t *testing.T, n *node) func() (most int64, least time.Duration) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	var most int64
	least := namesTTL
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			most = max(most, rss(t, n))
			s, err := n.http.status()
			if err != nil {
				continue // a slow answer is not a late keep-alive
			}
			if left, err := time.ParseDuration(s.Session.ExpiresIn); err == nil {
				least = min(least, left)
			}
		}
	}()
	return func() (int64, time.Duration) { close(stop); <-done; return most, least }
}

// rss is the memory that a node's process has.
func rss(t *testing.T, n *node) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.process.Pid()))
	if err != nil {
		t.Error(err)
		return 0
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Error(err)
	}
	return pages * int64(os.Getpagesize())
}

// listsAtMost checks how many hosts the node lists.
func listsAtMost(n *node, most int) error {
	var list struct {
		Hosts []struct{ Host string } `json:"hosts"`
	}
	if err := n.http.read("/v1/hosts?local=true", &list); err != nil {
		return err
	}
	if len(list.Hosts) > most {
		return fmt.Errorf("it lists %d; want at most %d", len(list.Hosts), most)
	}
	return nil
}
