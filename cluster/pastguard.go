package cluster

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	recallEvery   = 100 * time.Millisecond
	recallTimeout = 500 * time.Millisecond
	// aloneListen is how long the only voter of a configuration listens before it leads, if its
	// disk is in doubt. If the cluster has grown since the copy was made, one of its members dials
	// within that time.
	aloneListen = 3 * time.Second
	// longestLife is the assumed life of a session while the real one is unknown: the longest ttl,
	// and the margin.
	longestLife = 5*time.Minute + 500*time.Millisecond
	doubtRemind = 5 * time.Second
	// olderCopyHelp names the documentation for the operator.
	olderCopyHelp = "docs/operations.md: a disk put back to an older copy"
)

// pastGuard keeps a server whose disk may be an older copy away from everything that needs its past
// (judgePast), and answers other servers' questions about theirs. It stands between Raft and the
// transport (guardedTransport).
type pastGuard struct {
	c     *Cluster
	mem   *memory
	doubt error // why the disk may be a copy; nil: it is not

	done chan struct{} // closed once released

	contacts contacts

	mu       sync.Mutex
	alone    bool // it was released as the only server
	verdict  pastVerdict
	heard    time.Time // when this server last followed or led, or started
	promised uint64    // it follows no leader of this term or an earlier one, nor votes in one
	votedOut uint64    // it votes in no term up to this, because it may have voted in it before
	term     uint64    // the term in which it follows a leader while in doubt
	settled  uint64    // see pastEvidence
	matched  uint64
	answers  map[raft.ServerID]testimony
	cleared  uint64 // a majority has promised for a candidate of this term

	asking sync.Mutex // one round of promises at a time; waiters share its answer
}

// newPastGuard inspects the disk before Raft writes to it.
func newPastGuard(c *Cluster) (*pastGuard, error) {
	has, err := c.stores.hasState()
	if err != nil {
		return nil, err
	}
	end, err := c.stores.end()
	if err != nil {
		return nil, err
	}
	term, err := c.stores.stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() != "not found" {
		return nil, err
	}
	mem, err := openMemory(c.cfg.Data, end, term)
	if err != nil {
		c.log.Warn("this server has forgotten what it knew of the others: it answers for them as if it knew little", "error", err)
	}
	g := &pastGuard{c: c, mem: mem, heard: c.born, promised: mem.promised(), done: make(chan struct{}), answers: make(map[raft.ServerID]testimony)}
	g.contacts.former = c.born
	self, _ := mem.recall(c.serverID())
	g.votedOut = self.Voted
	switch {
	case !has || c.cfg.Data.Path() == "": // it has nothing to forget
		g.verdict = pastVerdict{released: true}
		close(g.done)
		g.recordPlace()
	case end.before(mem.lastOwn()):
		g.doubt = errors.New("the Raft log ends earlier than it did")
	default:
		g.doubt = c.cfg.Data.moved
	}
	g.verdict.kept = g.doubt == nil
	return g, nil
}

// run settles the doubt, then keeps the memory up to date.
func (g *pastGuard) run(ctx context.Context) {
	select {
	case <-g.c.raftReady:
	case <-ctx.Done():
		return
	}
	g.settle(ctx)
	unrecorded := g.doubt != nil
	for sleep(ctx, rememberEvery) {
		g.remember(ctx)
		// A process that restarts while anything depends on the doubt must be in doubt again. So
		// the place is recorded only now.
		if unrecorded && g.free() && g.holdLeft() == 0 {
			unrecorded = false
			g.recordPlace()
		}
	}
}

// close saves the memory once Raft has stopped.
func (g *pastGuard) close() {
	g.mem.note(g.c.logEnd(), 0)
	if err := g.mem.save(true); err != nil {
		g.c.log.Warn("at its next start this server will know less of the others", "error", err)
	}
}

// settle returns once the server is released.
func (g *pastGuard) settle(ctx context.Context) {
	if g.free() {
		return
	}
	log := g.c.log
	if g.doubt != nil {
		log.Warn("this server's disk may have been put back to an older copy: it takes no part in elections yet",
			"reason", g.doubt, "see", olderCopyHelp)
	}
	remind := lognoise.Reminder{Every: doubtRemind}
	var lost position
	for {
		g.askAll(ctx)
		if ctx.Err() != nil {
			return
		}
		v := g.look()
		if v.lost != lost && v.lost != (position{}) {
			lost = v.lost
			log.Error("this server's disk has been put back to an older copy: leave it running, a leader brings it up to date",
				"log_ends_at", g.c.logEnd(), "had", lost, "see", olderCopyHelp)
		}
		if v.released {
			g.release(v)
			return
		}
		missing := g.missing()
		if !v.complete && missing == "" {
			missing = "whoever was in its configuration"
		}
		if missing != "" && g.doubt != nil && remind.Due(missing) {
			log.Warn("this server waits for servers that may remember more than its log holds",
				"not_heard", missing, "sessions_end_in", max(0, g.wait()-g.silence()).Round(100*time.Millisecond), "see", olderCopyHelp)
		}
		if !sleep(ctx, recallEvery) {
			return
		}
	}
}

func (g *pastGuard) release(v pastVerdict) {
	g.mu.Lock()
	g.verdict = v
	g.alone = v.alone
	g.votedOut = max(g.votedOut, v.voted)
	g.mu.Unlock()
	close(g.done)
	if v.voted > 0 {
		g.mem.learn(g.c.serverID(), remembered{Voted: v.voted})
	}
	switch {
	case g.doubt == nil:
		g.c.log.Debug("this server is sure of its past", "reason", v.why)
	case v.alone:
		g.c.log.Warn("this server may be an older copy of itself, and is the only one: it leads, but grants nothing yet",
			"reason", g.doubt, "grants_in", g.holdLeft().Round(100*time.Millisecond), "see", olderCopyHelp)
	default:
		g.c.log.Info("this server takes part in elections again", "reason", v.why, "log_ends_at", g.c.logEnd())
	}
	if g.doubt != nil {
		g.c.restoreTimeouts()
	}
}

func (g *pastGuard) recordPlace() {
	if err := g.c.cfg.Data.recordPlace(); err != nil {
		g.c.log.Warn("at its next start this server will take its disk for a copy that was put back", "error", err)
	}
}

// holdLeft is how long this server must still grant nothing. If it is the only server, no other one
// remembers what it may have forgotten, so it waits until every possible session has run out.
func (g *pastGuard) holdLeft() time.Duration {
	g.mu.Lock()
	alone := g.alone
	g.mu.Unlock()
	if !alone {
		return 0
	}
	return max(0, g.wait()-time.Since(g.c.born))
}

// free reports whether the server is released.
func (g *pastGuard) free() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// wait returns how long a session may live after a majority last confirmed its leader.
func (g *pastGuard) wait() time.Duration {
	if saved := g.mem.savedWait(); saved > 0 {
		return saved
	}
	if g.c.cfg.SessionLife != nil {
		if life, _ := g.c.cfg.SessionLife(); life > 0 {
			return life
		}
	}
	return longestLife
}

func (g *pastGuard) silence() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.heard)
}

// voters lists the other voters of the configuration.
func (g *pastGuard) voters() []raft.ServerID { return g.others(g.c.configuration()) }

func (g *pastGuard) others(c raft.Configuration) (ids []raft.ServerID) {
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter && s.ID != g.c.serverID() {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// missing names the voters that have not answered, or do not trust their own memory.
func (g *pastGuard) missing() string {
	ids := g.voters()
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, id := range ids {
		if t := g.answers[id]; !t.answered || !t.sure {
			names = append(names, handshake.NameOf(string(id)))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// look judges the present evidence.
func (g *pastGuard) look() pastVerdict {
	configuration, end, wait, leads := g.c.configuration(), g.c.logEnd(), g.wait(), g.c.leadingTerm() != 0
	voters := g.others(configuration)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.verdict = judgePast(pastEvidence{
		kept: g.doubt == nil, end: end, configured: len(configuration.Servers) > 0, voters: voters, heard: g.answers,
		silent: time.Since(g.heard), wait: wait, listen: aloneListen * time.Duration(g.c.cfg.Multiplier),
		leads: leads && len(voters) > 0, term: g.term, matched: g.matched, settled: g.settled,
	})
	return g.verdict
}

// promise makes sure that no leader of an earlier term can confirm a session any more, and that all
// sessions confirmed so far have run out. For that, a majority that includes this server must have
// followed nobody for long enough, and must promise not to follow, or vote for, anybody in an
// earlier term. Any majority that confirmed a session shares a server with that one, which has been
// silent since. Only then may this server vote in the term, whatever it has forgotten.
func (g *pastGuard) promise(ctx context.Context, term uint64) bool {
	if term == 0 {
		return false
	}
	g.asking.Lock()
	defer g.asking.Unlock()
	g.mu.Lock()
	cleared := g.cleared == term
	g.mu.Unlock()
	if cleared {
		return true
	}
	wait := g.wait()
	if !g.tryPromise(term-1, wait) {
		return false
	}
	var mu sync.Mutex
	promised := 1
	request := &clusterpb.RecallRequest{Server: string(g.c.serverID()), Promise: term - 1, SilenceNs: int64(wait)}
	g.askEach(ctx, request, func(_ raft.ServerID, t testimony) {
		mu.Lock()
		defer mu.Unlock()
		if t.promised {
			promised++
		}
	})
	if promised <= (len(g.voters())+1)/2 {
		return false
	}
	g.mu.Lock()
	g.cleared = term
	g.mu.Unlock()
	g.c.log.Warn("this server votes although its log may lack entries: no session of before can be alive",
		"term", term, "silent", g.silence().Round(100*time.Millisecond), "see", olderCopyHelp)
	return true
}

// tryPromise binds this server, durably, unless it has followed or led within silence.
func (g *pastGuard) tryPromise(term uint64, silence time.Duration) bool {
	g.mu.Lock()
	if time.Since(g.heard) < silence {
		g.mu.Unlock()
		return false
	}
	g.promised = max(g.promised, term) // it holds from here on, even if the write fails
	g.mu.Unlock()
	g.mem.setPromise(term)
	if err := g.mem.save(false); err != nil {
		if g.c.said.Due("promise", time.Now()) {
			g.c.log.Warn("no promise can be given", "error", err)
		}
		return false
	}
	return true
}

// remember saves and spreads newly learnt facts.
func (g *pastGuard) remember(ctx context.Context) {
	var life time.Duration
	if g.c.cfg.SessionLife != nil {
		if d, certain := g.c.cfg.SessionLife(); certain {
			life = d
		}
	}
	g.mem.note(g.c.logEnd(), life)
	if err := g.mem.save(false); err != nil && g.c.said.Due("memory", time.Now()) {
		g.c.log.Warn("this server may forget what it knows of the others", "error", err)
	}
	if g.c.leadingTerm() == 0 {
		return
	}
	news := g.mem.takeNews()
	if news == nil {
		return
	}
	request := &clusterpb.RememberRequest{}
	for id, r := range news {
		request.Servers = append(request.Servers, rememberedProto(id, r))
	}
	ctx, cancel := context.WithTimeout(ctx, recallTimeout*time.Duration(g.c.cfg.Multiplier))
	defer cancel()
	var wg sync.WaitGroup
	for _, id := range g.voters() {
		addr, ok := g.c.addressOf(id)
		if !ok {
			continue
		}
		wg.Go(func() {
			_, err := ask(ctx, g.c, addr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.RememberReply, error) {
				return cc.Remember(ctx, request)
			})
			if err != nil {
				g.c.log.Debug("a server was not told what the others have acknowledged", "server", id, "error", err)
			}
		})
	}
	wg.Wait()
}

// end returns the end of the stored log.
func (s *stores) end() (position, error) {
	var end position
	list, err := s.snapshots.List()
	if err != nil {
		return end, err
	}
	if len(list) > 0 {
		end = position{Term: list[0].Term, Index: list[0].Index}
	}
	last, err := s.log.LastIndex()
	if err != nil || last <= end.Index {
		return end, err
	}
	var entry raft.Log
	if err := s.log.GetLog(last, &entry); err != nil {
		return end, err
	}
	return position{Term: entry.Term, Index: entry.Index}, nil
}

// logEnd returns the present end of Raft's log.
func (c *Cluster) logEnd() position {
	stats := c.raft.Stats()
	number := func(key string) uint64 {
		n, _ := strconv.ParseUint(stats[key], 10, 64) // Raft writes a number
		return n
	}
	log := position{Term: number("last_log_term"), Index: number("last_log_index")}
	snapshot := position{Term: number("last_snapshot_term"), Index: number("last_snapshot_index")}
	if snapshot.Index > log.Index {
		return snapshot
	}
	return log
}

// GrantHold returns how long this server must grant nothing although it leads, because it is the
// only server and its disk may be an older copy. Once that time is over, no forgotten session can
// hold the slots it grants.
func (c *Cluster) GrantHold() time.Duration {
	if c.past == nil {
		return 0
	}
	return c.past.holdLeft()
}
