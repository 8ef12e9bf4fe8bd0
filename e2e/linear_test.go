package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/linear"
)

const (
	linearVariable = "WEIR_E2E_LINEAR" // how long TestLimitsAreLinearisable makes faults, as a Go duration
	linearDefault  = 12 * time.Second
	linearClients  = 6
	linearPatterns = 3  // in use at a time
	patternWrites  = 40 // then another takes its place: the longer a history, the longer it takes to judge
	faultWrites    = 10 // that take effect after a fault, before the next: a slow machine makes fewer faults, not fewer writes to each
)

// TestLimitsAreLinearisable: clients write limits through all nodes, with and without conditions,
// and read them, while nodes are killed, stopped and frozen, the leader above all. Every write
// takes effect at one moment, and every node shows the log's states in their order.
func TestLimitsAreLinearisable(t *testing.T) {
	d, seed := linearDefault, uint64(time.Now().UnixNano())
	var err error
	if s := os.Getenv(linearVariable); s != "" {
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv(seedVariable); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	c := startCluster(t, shape{ttl: 2 * time.Second})
	h := newHistorian(c)
	for i := range linearClients {
		h.clients.Go(func() { h.client(i, rand.New(rand.NewPCG(seed, uint64(i+1)))) })
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	faults := 0
	for begun := time.Now(); time.Since(begun) < d; faults++ {
		victim := c.nodes[rng.IntN(len(c.nodes))]
		if leader, _, err := c.agreedLeader(); err == nil && rng.IntN(2) == 0 {
			victim = leader
		}
		h.fault(t, rng, victim)
		h.awaitWrites(t, faultWrites)
	}
	close(h.stop)
	h.clients.Wait()
	h.converge(t)
	h.judge(t, faults, time.Since(h.begun))
}

// historian lets clients work, and writes down what they did and saw.
type historian struct {
	c       *cluster
	begun   time.Time
	stop    chan struct{}
	clients sync.WaitGroup

	mu     sync.Mutex
	lives  map[*node]int
	writes []*linear.Write
	done   int // of the writes, those that took effect
	views  []*linear.View
	values int64 // given out
	counts map[string]int
}

func newHistorian(c *cluster) *historian {
	return &historian{c: c, begun: time.Now(), stop: make(chan struct{}), lives: map[*node]int{}, counts: map[string]int{}}
}

// fault makes one fault: those of TestFaultsUnderLoad, or a freeze that others see as the node's
// death.
func (h *historian) fault(t *testing.T, rng *rand.Rand, n *node) {
	t.Helper()
	if rng.IntN(3) == 0 {
		t.Logf("node %s is frozen until it is replaced", n.name)
		n.signal(t, syscall.SIGSTOP)
		<-time.After(2500 * time.Millisecond)
		n.signal(t, syscall.SIGCONT)
		n.awaitReady(t, 10*time.Second)
		return
	}
	life := h.setLife(n, noLife)
	fault(t, rng, n)
	h.setLife(n, life+1)
}

// awaitWrites returns once so many more writes have taken effect.
func (h *historian) awaitWrites(t *testing.T, more int) {
	t.Helper()
	want := h.effective() + more
	eventually(t, 15*time.Second, "clients write again", func() error {
		if done := h.effective(); done < want {
			return fmt.Errorf("%d of %d writes have taken effect", more-(want-done), more)
		}
		return nil
	})
}

func (h *historian) effective() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done
}

// noLife is that of a node that is being killed and started: nobody knows which of two processes
// answers.
const noLife = linear.NoLife

// setLife says which process of a node's answers from now on, and returns which one did before.
func (h *historian) setLife(n *node, life int) (before int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, h.lives[n] = h.lives[n], life
	return before
}

// client makes one call after another until the historian stops.
func (h *historian) client(id int, rng *rand.Rand) {
	for {
		select {
		case <-h.stop:
			return
		default:
		}
		n := h.c.nodes[rng.IntN(len(h.c.nodes))]
		view := h.look(n)
		if view == nil || rng.IntN(4) > 0 {
			h.write(id, rng, n, view)
		}
	}
}

// look notes what a node shows; nil where it does not answer.
func (h *historian) look(n *node) *linear.View {
	v := &linear.View{Node: n.name, Life: h.life(n), Limits: map[string]linear.Shown{}, Call: time.Since(h.begun)}
	var list struct {
		Index  uint64 `json:"index"`
		Limits []struct {
			Pattern     string `json:"pattern"`
			Connections int64  `json:"connections"`
			ModifyIndex uint64 `json:"modify_index"`
		} `json:"limits"`
	}
	err := n.http.read("/v1/limits", &list)
	if v.Return = time.Since(h.begun); err != nil {
		return nil
	}
	if h.life(n) != v.Life {
		v.Life = noLife
	}
	v.Index = list.Index
	for _, l := range list.Limits {
		v.Limits[l.Pattern] = linear.Shown{Value: l.Connections, Index: l.ModifyIndex}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views = append(h.views, v)
	return v
}

func (h *historian) life(n *node) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lives[n]
}

// write makes a write of a kind, through a node, in the light of what somebody saw.
func (h *historian) write(id int, rng *rand.Rand, n *node, seen *linear.View) {
	w := h.plan(rng, n, seen)
	w.Client = id
	method, body, header := http.MethodPut, connections(int(w.Value)), map[string]string{}
	switch w.Kind {
	case linear.Delete, linear.Discard:
		method, body = http.MethodDelete, ""
	case linear.Create:
		header["If-None-Match"] = "*"
	}
	if w.Kind == linear.Swap || w.Kind == linear.Discard {
		header["If-Match"] = fmt.Sprintf("%q", strconv.FormatUint(seen.Limits[w.Pattern].Index, 10))
	}
	a, err := n.http.call(method, limitPath(w.Pattern), body, header)
	w.Return = time.Since(h.begun)
	if !outcome(w, a, err) {
		return
	}
	if h.life(n) != w.Life {
		w.Life = noLife
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, w)
	if w.Outcome == linear.OK {
		h.done++
	}
}

// plan chooses what to write.
func (h *historian) plan(rng *rand.Rand, n *node, seen *linear.View) *linear.Write {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := rng.IntN(linearPatterns)
	place := fmt.Sprintf("p%d", slot)
	h.counts[place]++
	w := &linear.Write{
		Node: n.name, Life: h.lives[n], Pattern: fmt.Sprintf("%s-%d.example", place, h.counts[place]/patternWrites),
		Kind: linear.Put, Call: time.Since(h.begun),
	}
	there := false
	if seen != nil {
		w.Seen, there = seen.Limits[w.Pattern].Value, seen.Limits[w.Pattern].Value != linear.Absent
	}
	switch k := rng.IntN(10); {
	case k < 2:
		w.Kind = linear.Create
	case k < 5 && there:
		w.Kind = linear.Swap
	case k < 6 && there:
		w.Kind = linear.Discard
	case k < 7:
		w.Kind = linear.Delete
	}
	if w.Kind != linear.Delete && w.Kind != linear.Discard {
		h.values++
		w.Value = h.values
	}
	return w
}

// outcome reads an answer; false says that the write surely had no effect.
func outcome(w *linear.Write, a *answer, err error) bool {
	var dial *net.OpError
	if err != nil {
		return !errors.As(err, &dial) || dial.Op != "dial"
	}
	var told struct {
		Index       uint64 `json:"index"`
		ModifyIndex uint64 `json:"modify_index"` // not of a delete
		Code        string `json:"code"`
	}
	_ = json.Unmarshal(a.body, &told) // without a code, its outcome is unknown
	switch {
	case a.status == http.StatusOK:
		w.Outcome, w.Index, w.Visible = linear.OK, told.Index, cmp.Or(told.ModifyIndex, told.Index)
	case a.status == http.StatusPreconditionFailed:
		w.Outcome = linear.Refused
	case a.status == http.StatusNotFound:
		w.Outcome = linear.NotFound
	case told.Code == "no_leader", told.Code == "disk_full":
		return false
	}
	return true
}

// converge: soon after the last write, all nodes show the same.
func (h *historian) converge(t *testing.T) {
	t.Helper()
	h.c.leader(t)
	h.c.setLimit(t, "last.example", connections(1))
	var want *linear.View
	for _, n := range h.c.nodes {
		eventually(t, 2*time.Second, "node "+n.name+" shows what the others do", func() error {
			v := h.look(n)
			if v == nil {
				return errors.New("it does not answer")
			}
			if want == nil {
				want = v
			}
			if v.Index != want.Index || fmt.Sprint(v.Limits) != fmt.Sprint(want.Limits) {
				return fmt.Errorf("it shows index %d; another %d", v.Index, want.Index)
			}
			return nil
		})
	}
}

// judge checks the history, and says how much there was.
func (h *historian) judge(t *testing.T, faults int, took time.Duration) {
	t.Helper()
	var counts [4]int
	for _, w := range h.writes {
		counts[w.Outcome]++
	}
	t.Logf("%d writes in %v (%d took effect, %d refused, %d found nothing, %d of unknown outcome), %d reads of all limits, %d faults",
		len(h.writes), took.Round(time.Second), counts[linear.OK], counts[linear.Refused], counts[linear.NotFound], counts[linear.Unknown],
		len(h.views), faults)
	if err := linear.Writes(h.writes, filepath.Join(h.c.dir, "writes.html"), 30*time.Second); err != nil {
		t.Error(err)
	}
	for _, v := range h.views {
		delete(v.Limits, "last.example") // not one of the clients'
	}
	if err := linear.Views(h.writes, h.views); err != nil {
		t.Error(err)
	}
}
