package leasetest

import (
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// Rule is a rule that a run can break, to show that the world finds the breach. The real code
// follows all of them: they are broken at its boundary, in the times, messages and results that it
// is handed, and around the state machine.
type Rule uint8

// The rules, and how each is broken.
const (
	_                    Rule = iota
	RuleFromAnswer            // 1: the lease runs from the answer's arrival
	RuleUnverified            // 2: whoever was deposed answers
	RuleStaleProof            // 2: the leader was verified, but before the keep-alive arrived
	RuleCloseEarly            // 3: sessions are closed two seconds early
	RuleNoMargin              // 3: sessions are closed after a ttl, without the margin
	RuleNewLeaderForgets      // 3: a new leader takes no new start
	RuleAsksItself            // 3: a new leader asks nobody but itself who led before
	RuleOldestContact         // 3: it takes the oldest of the answers, and not the newest
	RuleForgetsContact        // 3: a server that has restarted says that it has answered nobody
	RuleNoFence               // 4: no fence
	RuleFenceLate             // 4: the node takes the ttl for longer than it is
	RuleTimerOnly             // 4: only the timer fences; who acts before it does not look at the clock
	RuleSeverIgnored          // 4: admission stops, and connections are not reset
	RuleBytesAfter            // 4: bytes move on a connection whose lease is over
	RuleClockStops            // 5: the clock stops with the machine
	RuleWallIgnored           // 5: the wall clock's jump is ignored
	RuleUncommitted           // 6: grants are told before they are committed
	RuleReleaseInUse          // 6: the release is sent while the slot is in use
	RuleOtherIdentity         // 7: another identity takes over
	RuleNoRest                // 7: freed slots don't rest
	RuleNewLeaderNoRest       // 7: nor do they with a new leader
	RuleUnproven              // 7: a hello takes over that nobody vouches for
	RuleStaleStatement        // 8: a hello's statement counts before the node has spoken again
	RuleKeepMissing           // 8: what the node does not state stays granted
	RuleKeepDifference        // 8: what the log does not grant stays in use
	RuleBeforeExchange        // 8: a node is granted slots before the exchange
	RuleReleaseEarly          // the slot is released before the upstream has seen the end
	RulePutBackGrants         // a lone server whose log is an older copy grants at once
	RulePutBackLevels         // it passes on the levels of that log
	RuleOtherCluster          // 9: node and leader don't look which cluster the other is of
	RuleSecondCluster         // 9: a server that has lost its disk forms a cluster without listening first
	RuleGateOpen              // 10: newly counted keys are granted before all nodes have said what they have open
	RuleKeepsClaims           // a request that is refused keeps its earlier claims
	RuleOtherOrder            // some requests take their claims in another order
	RuleReusedFree            // a request on a connection that is used again takes no claims
	RuleUnitFull              // rates 1: a unit that is granted starts full
	RuleTokensLate            // rates 2: the clock is not read before a token is taken
	RuleUnitsKept             // rates 3: a release is said, and its share of the bucket stays
	RuleNoCut                 // rates 3: a bucket is not cut when units leave it
	RuleLevelTwice            // rates 4: a level goes out with two grants
	RuleLevelUnsaid           // rates 4: a release says nothing of its level
	RuleLevelLost             // rates 4: a level does not go out with the next grant
	RuleUnitsFreedEarly       // rates 4: units of a session that is not proven any more are freed early
	RuleTwoFill               // rates: two nodes fill one unit
	RuleFullSpeed             // rates 7: buckets fill as fast as they might, by clocks that drift
	RuleTokensEarly           // rates 6: tokens are taken before the request has waited for others
	RulePieceOutlives         // bandwidth: a piece whose turn has come is moved after the fence
	RulePieceTwice            // bandwidth: what was moved goes back into the bucket
	RulePieceHeld             // bandwidth: a flow holds a piece of one limit while it waits for another
	RuleLoweredKeeps          // bandwidth: a bucket whose rate is lowered keeps its level
	RuleForgottenFull         // bandwidth: a pool that was forgotten is full when it is found again
	RuleOwnAnew               // bandwidth: a connection's own bucket is full again when limits change
	RuleUncut                 // fsm 1: an increase is not cut to what is free
	RuleClosedIncrease        // fsm 2: an increase for a session that is not open counts
	RuleBelowZero             // fsm 3: a decrease takes more than the session has
	RuleCloseKeeps            // fsm 3: closing does not free in the same step
	RuleStaleTerm             // fsm: an entry judged in another term counts
	RuleRepeated              // fsm: an entry that is applied twice counts twice
	RuleRefill                // rates 5: a change of limits, or a restart, fills what is free
	RuleSmallBurst            // rates 5: what is free is forgotten once the present burst has come in, not the largest

	rules
)

var ruleNames = [rules]string{
	"", "lease-from-answer", "unverified", "stale-proof", "close-early", "no-margin", "new-leader-forgets", "asks-itself", "oldest-contact", "forgets-contact", "no-fence", "fence-late",
	"timer-only", "sever-ignored", "bytes-after", "clock-stops", "wall-ignored", "uncommitted", "release-in-use", "other-identity",
	"no-rest", "new-leader-no-rest", "unproven", "stale-statement", "keep-missing", "keep-difference", "before-exchange", "release-early",
	"put-back-grants", "put-back-levels", "other-cluster", "second-cluster", "gate-open", "keeps-claims", "other-order", "reused-free", "unit-full", "tokens-late",
	"units-kept", "no-cut", "level-twice", "level-unsaid", "level-lost", "units-freed-early", "two-fill", "full-speed", "tokens-early",
	"piece-outlives", "piece-twice", "piece-held", "lowered-keeps", "forgotten-full", "own-anew",
	"fsm-uncut", "fsm-closed-increase", "fsm-below-zero", "fsm-close-keeps", "fsm-stale-term", "fsm-repeated", "fsm-refill", "fsm-small-burst",
}

// String is the rule's name for the flag that breaks it.
func (r Rule) String() string { return ruleNames[r] }

// RuleByName finds a rule by its name.
func RuleByName(name string) (Rule, bool) {
	for r := Rule(1); r < rules; r++ {
		if ruleNames[r] == name {
			return r, true
		}
	}
	return 0, false
}

// Rules lists all that can be broken.
func Rules() (all []Rule) {
	for r := Rule(1); r < rules; r++ {
		all = append(all, r)
	}
	return all
}

// ofState reports whether the rule is the state machine's.
func (r Rule) ofState() bool { return r >= RuleUncut }

// spoilUp breaks a rule in what a node says.
func (w *world) spoilUp(s *stream, m *leasepb.NodeMessage) *leasepb.NodeMessage {
	switch w.rule {
	case RuleOtherIdentity:
		if m.GetHello() != nil {
			m = proto.CloneOf(m)
			m.GetHello().Identity = s.x.name
		}
	case RuleOtherCluster:
		if m.GetHello() != nil {
			m = proto.CloneOf(m)
			m.GetHello().Cluster = ""
		}
	case RuleGateOpen:
		if m.GetUpdate() != nil {
			m = proto.CloneOf(m)
			m.GetUpdate().LimitsIndex = math.MaxUint64
		}
	case RuleKeepMissing:
		if p := m.GetHoldings(); p != nil {
			m = proto.CloneOf(m)
			m.GetHoldings().Holdings = nil
		}
		if h := m.GetHello(); h.GetSession() != 0 {
			m = proto.CloneOf(m)
			h = m.GetHello()
			h.Holdings = nil
			for _, g := range w.raft.head.state.SessionGrants(h.Session) {
				h.Holdings = append(h.Holdings, &leasepb.Holding{Key: fsmpb.KeyOf(g.Key), Slots: g.Delta})
			}
		}
	case RuleUnitsKept, RuleNoCut, RuleLevelUnsaid:
		m = w.spoilUnits(m)
	case RuleReleaseInUse:
		if u := m.GetUpdate(); u != nil && s.x.dice.one(4) {
			m = proto.CloneOf(m)
			u = m.GetUpdate()
			for _, d := range u.Demands {
				if d.InUse > 0 && d.Held > 0 {
					u.Releases = append(u.Releases, &leasepb.Holding{Key: d.Key, Slots: 1})
				}
			}
		}
	}
	return m
}

// spoilDown breaks a rule in what a node hears.
func (w *world) spoilDown(_ *stream, m *leasepb.LeaderMessage) *leasepb.LeaderMessage {
	switch w.rule {
	case RuleFenceLate:
		if wl := m.GetWelcome(); wl != nil && !wl.Resumed {
			m = proto.CloneOf(m)
			m.GetWelcome().TtlNs += int64(1500 * time.Millisecond)
		}
	case RuleOtherCluster:
		switch {
		case m.GetWelcome() != nil:
			m = proto.CloneOf(m)
			m.GetWelcome().Cluster = clusterID
		case m.GetLimits() != nil:
			m = proto.CloneOf(m)
			m.GetLimits().Cluster = clusterID
		}
	case RuleKeepDifference:
		if len(m.GetWelcome().GetCorrected()) > 0 {
			m = proto.CloneOf(m)
			m.GetWelcome().Corrected = nil
		}
	}
	return m
}

// assign tells a node of slots.
func (s *stream) assign(key limit.Key, slots int64) {
	s.fromLeader(leader.Outbound{Conn: s.id, Msg: &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{
		Assign: &leasepb.Assign{Grants: []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: slots}}}}}})
}

// tellEarly breaks rule 6: nodes hear of what is not committed yet.
func (l *leadership) tellEarly(adj *fsm.Adjust) {
	if l.w.rule != RuleUncommitted {
		return
	}
	for _, a := range adj.Adjustments {
		for _, s := range l.streams {
			if a.Delta > 0 && s.welcomed && s.session == a.Session {
				s.assign(a.Key, a.Delta)
			}
		}
	}
}

// tellUnasked breaks rule 8: nodes hear of grants before they have been heard.
func (l *leadership) tellUnasked(cmd fsm.Command, res fsm.Result) {
	if _, ok := cmd.(*fsm.Adjust); !ok || l.w.rule != RuleBeforeExchange {
		return
	}
	for _, a := range res.Adjusted {
		for _, s := range l.streams {
			if a.Delta > 0 && !s.welcomed && !s.ended && s.x.node.Session(s.x.clock()).ID == a.Session {
				s.assign(a.Key, a.Delta)
			}
		}
	}
}

// batches numbers the Adjusts of a broken state machine, which makes some of its own.
type batches struct{ term, last, own uint64 }

const batchStep = 64

// real is the number that a real entry gets.
func (b *batches) real(term, batch uint64) uint64 {
	if term != b.term {
		*b = batches{term: term}
	}
	if batch > b.last {
		b.last, b.own = batch, 0
	}
	return batch * batchStep
}

// made is the next number of an entry that is made up.
func (b *batches) made(term uint64) uint64 {
	if term != b.term {
		*b = batches{term: term}
	}
	b.own++
	return b.last*batchStep + b.own
}

// applyBroken is a state machine that breaks a rule: the real one, which is handed other commands.
func (x *process) applyBroken(index uint64, e logEntry) fsm.Result {
	m := &brokenMachine{x: x, st: x.state, term: e.term, at: index}
	switch cmd := e.cmd.(type) {
	case *fsm.Adjust:
		c := *cmd
		c.Adjustments = append([]fsm.Adjustment(nil), cmd.Adjustments...)
		defer m.loseBursts()
		return m.adjust(&c)
	case *fsm.PutLimit:
		defer m.refill()
		defer m.loseBursts()
	case *fsm.CloseSessions:
		c := *cmd
		if x.w.rule == RuleStaleTerm {
			c.Term = e.term
		}
		return m.closing(&c)
	case *fsm.OpenSession:
		c := *cmd
		if x.w.rule == RuleStaleTerm {
			c.Term = e.term
		}
		defer m.refill()
		return m.closing(&c)
	}
	return m.apply(e.cmd)
}

type brokenMachine struct {
	x    *process
	st   *fsm.State
	term uint64
	at   uint64 // the next index
}

func (m *brokenMachine) apply(c fsm.Command) fsm.Result {
	r := m.st.Apply(m.at, m.term, c)
	m.at++
	return r
}

func (m *brokenMachine) adjust(c *fsm.Adjust) fsm.Result {
	b := &m.x.batches
	switch m.x.w.rule {
	case RuleStaleTerm:
		c.Term = m.term
	case RuleRepeated:
		if c.Term == m.term {
			c.Batch = b.made(m.term)
		}
		return m.apply(c)
	case RuleUncut:
		defer m.raise(c)()
	case RuleClosedIncrease:
		m.reopen(c)
	}
	if c.Term == m.term {
		c.Batch = b.real(c.Term, c.Batch)
	}
	asked := c.Adjustments
	if m.x.w.rule == RuleBelowZero {
		c.Adjustments = m.takeMore(c.Adjustments)
	}
	res := m.apply(c)
	if len(res.Adjusted) > len(asked) {
		res.Adjusted = res.Adjusted[:len(asked)]
	}
	return res
}

// raise lifts the limits of what is increased, and returns the means to lower them again.
func (m *brokenMachine) raise(c *fsm.Adjust) (lower func()) {
	var lifted []limit.Limit
	for _, a := range c.Adjustments {
		l := m.st.Table().Governing(a.Key)
		if a.Delta <= 0 || !l.Capped() || l.Connections == limit.MaxConnections || len(lifted) == 4 {
			continue
		}
		lifted = append(lifted, *l)
		up := *l
		up.Connections = limit.MaxConnections
		m.apply(&fsm.PutLimit{Limit: up})
	}
	return func() {
		for _, l := range lifted {
			m.apply(&fsm.PutLimit{Limit: l})
		}
	}
}

// ghost opens a session that nobody lives by.
func (m *brokenMachine) ghost() uint64 {
	name := "ghost-" + time.Duration(m.at).String()
	return m.apply(&fsm.OpenSession{Term: m.term, Node: name, Identity: name}).Session
}

// reopen lets increases of sessions that are not open count.
func (m *brokenMachine) reopen(c *fsm.Adjust) {
	for i, a := range c.Adjustments {
		if _, open := m.st.Session(a.Session); !open && a.Delta > 0 {
			c.Adjustments[i].Session = m.ghost()
			return
		}
	}
}

// takeMore lets decreases take from others what the session does not have.
func (m *brokenMachine) takeMore(as []fsm.Adjustment) []fsm.Adjustment {
	for _, a := range as {
		more := -a.Delta - m.st.GrantOf(a.Session, a.Key)
		for _, other := range m.st.Grants(a.Key) {
			if k := min(more, other.Slots); a.Delta < 0 && k > 0 && other.Session != a.Session {
				as = append(as, fsm.Adjustment{Session: other.Session, Key: a.Key, Delta: -k})
				more -= k
			}
		}
	}
	return as
}

// closing applies what ends sessions. What they hold may stay behind.
func (m *brokenMachine) closing(c fsm.Command) fsm.Result {
	res := m.apply(c)
	if m.x.w.rule == RuleCloseKeeps && len(res.Freed) > 0 {
		ghost := m.ghost()
		var keep []fsm.Adjustment
		for _, f := range res.Freed {
			keep = append(keep, fsm.Adjustment{Session: ghost, Key: f.Key, Delta: f.Delta})
		}
		m.apply(&fsm.Adjust{Term: m.term, Batch: m.x.batches.made(m.term), Adjustments: keep})
	}
	return res
}
