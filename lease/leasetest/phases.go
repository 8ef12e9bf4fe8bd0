package leasetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// The events of the world.
const (
	evFault    uint8 = iota
	evFaultEnd       // n: the fault's place
	evBuried         // gossip has noticed that a process is dead
	evLeft           // gossip tells that a session is not used any more
	evFound          // a process that lost a grant has been corrected
	evTwinEnds
	evHangAll // n: the process's place
	evWrite   // n: the write's place
)

func (w *world) act(kind uint8, n int64) {
	switch kind {
	case evFault:
		w.strike(int(n))
	case evFaultEnd:
		w.mend(int(n))
	case evBuried:
		if x := w.nodes[n]; !x.running {
			w.gossip(x.name, true)
		}
	case evLeft:
		i := slices.IndexFunc(w.left, func(f leader.Farewell) bool { return f.Session == uint64(n) })
		if i < 0 {
			return // the node is back, and gossip says so
		}
		said := w.left[i]
		for _, l := range slices.Clone(w.raft.leaderships) {
			if l.p.awake() {
				l.alloc.Left(said)
				l.pump()
			}
		}
	case evFound:
		if x := w.nodes[n&0xff]; x.losses == n>>8 { // no other since
			x.losing = false
			w.up.judgeAnew()
		}
	case evTwinEnds:
		w.twins[n].crash()
	case evWrite:
		w.write(int(n))
	case evHangAll:
		if s := w.nodes[n].stream; s != nil && w.nodes[n].awake() {
			s.hangUp()
		}
	}
}

// gossip spreads whether a node is dead, true or not.
func (w *world) gossip(node string, dead bool) {
	if w.dead[node] == dead {
		return
	}
	w.dead[node] = dead
	for _, l := range slices.Clone(w.raft.leaderships) {
		if l.p.awake() {
			l.alloc.Health(node, dead)
			l.pump()
		}
	}
}

// strikes is the node that a fault strikes: the one that leads, where the plan names none.
func (w *world) strikes(i int) int {
	node := w.plan.Faults[i].Node
	if node < 0 {
		node = 0
		if w.raft.lead != nil {
			node = w.raft.lead.p.index
		}
		w.struck[i] = node
	}
	return node
}

// strike begins a fault.
func (w *world) strike(i int) {
	f, node := w.plan.Faults[i], w.strikes(i)
	x := w.nodes[node]
	w.out.Faults[f.Kind]++
	if w.trace != nil {
		w.trace.fault(w.now, f, x.name)
	}
	switch f.Kind {
	case FaultCrash:
		w.crash(x, f)
	case FaultLostSeed:
		w.loseSeed(x, f)
	case FaultStray:
		x.stray = f.N
		if x.stream != nil && x.awake() {
			x.stream.hangUp()
		}
	case FaultCut, FaultRaftCut, FaultStreamCut:
		w.cut(f, node, 1)
		w.at(f.For.D(), w, evFaultEnd, int64(i))
	case FaultStream:
		if x.stream != nil && x.awake() {
			x.stream.hangUp()
		}
	case FaultDepose:
		w.raft.depose(f.For.D(), f.Late.D())
	case FaultStop:
		x.pause(f.For.D(), 0, 0)
	case FaultSuspend:
		x.pause(f.For.D(), 0, f.For.D())
	case FaultFreeze:
		x.pause(f.For.D(), f.For.D(), f.For.D())
	case FaultLag:
		if f.N == 1 {
			x.lagUp = f.Late.D()
		} else {
			x.lag = f.Late.D()
		}
		w.at(f.For.D(), w, evFaultEnd, int64(i))
	case FaultLeave:
		if x.awake() && !x.parting {
			x.drain()
			x.at(x.dice.upTo(second), false, x, evPart, 0)
			x.at(second+f.Late.D(), false, x, evEnd, int64(f.For))
		}
	case FaultHush:
		w.hush(f.For.D())
	case FaultLimit:
		w.writeLimit(*f.Limit, i)
	case FaultDisk:
		w.commit = f.Late.D()
		w.at(f.For.D(), w, evFaultEnd, int64(i))
	case FaultGossip:
		w.gossip(x.name, f.N == 0)
		w.at(f.For.D(), w, evFaultEnd, int64(i))
	case FaultTwin:
		w.twin(x, f)
	case FaultReplay:
		w.replay(f.N == 1)
	case FaultWild:
		w.wild = max(w.wild, w.now+f.For.D())
	case FaultLoss:
		w.loss = x
	case FaultSnapshot:
		if x.state != nil {
			w.raft.restore(x)
		}
	case FaultUnknown:
		if l := w.raft.lead; l != nil {
			l.deaf = true
			w.raft.linger = x.dice.upTo(second)
			w.at(f.For.D(), l, evDeaf, 0)
		}
	case FaultPutBack:
		w.raft.putBack(w.nodes[0], f)
	case FaultWall:
		x.wallSet += f.Late.D() * time.Duration(1-2*min(f.N, 1))
	}
}

// mend ends a fault.
func (w *world) mend(i int) {
	f := w.plan.Faults[i]
	node := max(f.Node, 0)
	if f.Node < 0 {
		node = w.struck[i]
	}
	x := w.nodes[node]
	switch f.Kind {
	case FaultCut, FaultRaftCut, FaultStreamCut:
		if !w.healed {
			w.cut(f, node, -1)
		}
	case FaultLag:
		if f.N == 1 {
			x.lagUp = 0
		} else {
			x.lag = 0
		}
	case FaultDisk:
		w.commit = w.plan.Commit.D()
	case FaultGossip:
		w.gossip(x.name, !x.running)
	}
}

func (w *world) crash(x *process, f Fault) {
	if !x.running {
		return
	}
	x.crash()
	if f.N == 1 {
		x.identity = ""
	}
	w.at(f.For.D(), x, evStart, 0)
}

// twin starts another process by a node's name, on the same machine or not: it has another
// identity.
func (w *world) twin(x *process, f Fault) {
	y := &process{
		w: w, index: x.index, name: x.name, twin: true, ppm: x.ppm,
		dice: newDice(w.plan.Seed, 5, uint64(len(w.twins))),
	}
	w.twins = append(w.twins, y)
	y.boot()
	w.at(f.For.D(), w, evTwinEnds, int64(len(w.twins)-1))
}

// writeLimit writes a limit as a client does: it comes again where there is no leader.
func (w *world) writeLimit(l Limit, i int) {
	limit, err := l.limit(limit.SourceAPI)
	if err != nil {
		w.fail(BreachPlan, "the plan has a limit that can't be: %v", err)
		return
	}
	var cmd fsm.Command = &fsm.PutLimit{Limit: limit}
	if l.Delete {
		cmd = &fsm.DeleteLimit{Pattern: limit.Pattern}
	}
	if _, done := w.raft.write(cmd); !done {
		w.out.Faults[FaultLimit]--
		w.at(200*ms, w, evFault, int64(i))
	}
}

// replay puts into the log again what a leader has proposed in this term, or what one proposed in
// an earlier one as if it were of this. Raft does neither; an opened session is not repeated in its
// own term, since nobody proposes an entry twice. Nor is an entry that takes a grant from who does
// not hear of it: it may not have been committed before, and this time nobody would count the loss.
func (w *world) replay(former bool) {
	r := &w.raft
	if r.lead == nil || !r.quorum(r.lead.p) {
		return
	}
	for range 2 * len(r.judged) {
		j := r.judged[w.dice.below(len(r.judged))]
		if _, opens := j.cmd.(*fsm.OpenSession); former != (j.term < r.term) || (opens || j.takes) && !former || j.cmd == r.lead.inflight {
			continue
		}
		res := r.commit(r.term, j.cmd)
		w.trace.note(w.now, "log", "replayed, of term", j.term, j.cmd, "error", res.Err)
		return
	}
}

// recover ends all faults and gives the cluster the time that it may take to be whole again: for
// sessions of the dead to end, for an election, and for nodes to come back.
func (w *world) recover() {
	for _, x := range w.nodes {
		if x.running && x.pausedUntil > w.now {
			w.run(x.pausedUntil - w.now)
		}
	}
	w.trace.note(w.now, "world", "all faults have ended")
	w.healed = true
	w.links = links{}
	w.commit, w.wild, w.loss, w.hushed = w.plan.Commit.D(), 0, nil, 0
	for _, y := range w.twins {
		y.crash()
	}
	for _, x := range w.nodes {
		x.lag, x.lagUp = 0, 0
		if !x.running {
			x.boot()
		}
		w.gossip(x.name, false)
	}
	w.raft.evaluate()
	for _, f := range w.plan.Faults {
		if f.Kind == FaultLeave { // a node that was leaving is not back yet
			w.run(max(0, f.At.D()+f.For.D()+f.Late.D()+second-w.now))
		}
	}
	ttl := w.plan.TTL.D() + leaseMargin
	w.run(ttl + ttl/10 + 4*second)
}

// settle checks that the cluster is whole: everybody is served, and no slot lies free while
// somebody waits.
func (w *world) settle() {
	if w.breach != "" {
		return
	}
	u := &w.up
	w.calm, w.final, u.finalFrom = true, true, w.now
	u.seen = u.seen[:0]
	for _, x := range w.nodes {
		if x.node.Session(x.clock()).State != leasepb.SessionLive {
			w.fail(BreachNoSession, "node %s has no session long after the last fault", x.name)
		}
		u.seen = append(u.seen, x.conns...)
	}
	for i := range u.keys {
		u.keys[i].freeFrom, u.keys[i].idleGrants = w.now, 0
		u.keys[i].full = u.keys[i].limit >= 0
	}
	for i := range u.hosts {
		u.watch(i)
	}
	if key, n, found := u.overfull(); found && w.expiry == lease.ExpiryClose {
		w.fail(BreachNotEvicted, "%d connections to %s are open long after its limit was lowered and what is above it was to be closed", n, key)
	}
	hungry := w.hungry()
	length := 2 * second
	if w.longestFill() > 0 {
		length = 2 * length
	}
	for _, h := range hungry {
		length = max(length, h.within)
	}
	watched := w.now + length
	length = max(length, w.flowsWatched())
	for end := w.now + length; w.now < end && w.breach == ""; {
		w.run(min(500*ms, end-w.now))
		if w.now <= watched {
			u.watchAll()
		}
		u.watchFlows()
	}
	for _, h := range hungry {
		if h.x.served[h.host] == h.from && !h.x.uses(h.host) && w.breach == "" {
			w.fail(BreachStarved, "node %s was not served a connection to %s in %v", h.x.name, u.hosts[h.host].name, length)
		}
	}
	w.checkAll()
}

// hunger is a node's claim to be served.
type hunger struct {
	x      *process
	host   int
	from   int
	within time.Duration
}

// uses reports whether a process has a connection to a host: one may be used again and again.
func (x *process) uses(host int) bool {
	return slices.ContainsFunc(x.conns, func(c *conn) bool { return c.host == host && c.claims[hostClaim].has })
}

// hungry lists who must be served in a while that can be waited for: where requests queue, all in
// turn.
func (w *world) hungry() (all []hunger) {
	const longest = 12 * second
	for key, k := range w.up.keys {
		l := w.up.table.Governing(k.key)
		if k.limit <= 0 || k.key.Scope != limit.ScopeHost || w.mixed(key) {
			continue
		}
		var most, round time.Duration // the longest use, and that of all one after the other
		n := 0
		for _, p := range w.plan.Workers {
			if w.up.hosts[w.up.hostOf(p.Host)].key == key {
				n++
				most = max(most, p.Hold.D()*3/2+p.Keep.D()+p.Hold.D())
				round += (p.Hold.D() + p.Keep.D()) / time.Duration(l.Connections)
			}
		}
		rounds := time.Duration(n)/time.Duration(l.Connections) + 2
		within := rounds*(most+w.handing()) + second
		patience := l.Queue.Timeout
		if !l.Queue.Enabled() { // who is refused must come again soon, and be there when its turn is
			within, patience = 2*within, 150*ms
		}
		if within > longest {
			continue
		}
		for _, p := range w.plan.Workers {
			host := w.up.hostOf(p.Host)
			x := w.nodes[p.Node]
			others := round - (p.Hold.D()+p.Keep.D())/time.Duration(l.Connections)
			if l.Queue.Enabled() && l.Queue.Timeout < others*6/5 {
				continue // who gives up before its turn can come loses it
			}
			if w.up.hosts[host].key == key && p.Leave == 0 && p.Pause.D() < patience {
				all = append(all, hunger{x, host, x.served[host], within})
			}
		}
	}
	return all
}

// handing is how long a turn is, and what passing a slot on takes.
func (w *world) handing() time.Duration {
	return max(100*ms, 60*w.commit) + 10*w.rtt + 4*w.plan.Upstream.D()
}

// mixed reports whether somebody who asks for a key's slots may have to wait for something else
// too: how long that takes can't be told.
func (w *world) mixed(key int) bool {
	t := w.up.table
	return w.scoped && slices.ContainsFunc(w.plan.Workers, func(k Worker) bool {
		if w.up.hosts[w.up.hostOf(k.Host)].key != key {
			return false
		}
		s, _ := k.subject()
		return slices.ContainsFunc(claimedScopes[:], func(scope limit.Scope) bool {
			l, _ := t.Find(scope, &s)
			return l.Caps(limit.Requests) || scope != limit.ScopeHost && l.Capped()
		})
	})
}

// rest lets the work stop, and checks that nothing is left of it.
func (w *world) rest() {
	if w.breach != "" {
		return
	}
	w.trace.note(w.now, "world", "the work stops")
	for _, x := range w.nodes {
		x.idle = true
		x.endFlows(0)
		x.after()
		for _, c := range slices.Clone(x.conns) {
			if c.state == connOpen || c.state == connParked {
				c.end()
			}
		}
	}
	var err error
	for i := 0; i < 20+int(w.longestReturn()/(500*ms)); i++ { // the slowest may be used for the first time only now
		w.run(500 * ms)
		if err = w.atRest(); err == nil || w.breach != "" {
			break
		}
	}
	if err != nil {
		w.fail(BreachUnrest, "nobody works any more, and yet: %v", err)
	}
	w.checkAll()
}

// longestReturn is how long after its last use the slowest unit goes back: once its bucket is full,
// by a clock that may be slow; and the last use may be of a request that waits now.
func (w *world) longestReturn() time.Duration {
	var wait time.Duration
	for i := range w.up.keys {
		if key := w.up.keys[i].key; w.up.table.Governing(key).Caps(key.Resource) {
			wait = max(wait, w.up.table.Governing(key).Queue.Timeout)
		}
	}
	return wait + w.longestFill()*11/10
}

// longestFill is how long the slowest bucket takes to fill.
func (w *world) longestFill() (longest time.Duration) {
	for i := range w.up.keys {
		key := w.up.keys[i].key
		if l := w.up.table.Governing(key); key.Resource.IsRate() && l.Caps(key.Resource) {
			longest = max(longest, time.Duration(float64(l.BurstGrains(key.Resource))/l.PerSecond(key.Resource)*float64(time.Second)))
		}
	}
	return longest
}

func (w *world) atRest() error {
	if n := w.up.granted(); n != 0 {
		return fmt.Errorf("%d slots are granted", n)
	}
	for _, x := range w.nodes {
		if err := x.node.AtRest(); err != nil {
			return err
		}
	}
	if w.raft.lead == nil {
		return errors.New("nobody leads")
	}
	return w.raft.lead.alloc.AtRest()
}
