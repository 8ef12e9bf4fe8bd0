package lease

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
)

// maxStated bounds the holdings that one message states, to the next page. With the longest names
// of hosts that is well below the 4 MiB that an older server takes in one message.
const maxStated = 8192

// statement is the hello on its way out: where the session goes on, it states all that is held.
// What was given back since the last stream broke is not in it: the leader finds that in the
// difference to the log, so it must not be said again. What is given back after its page has been
// composed is said with the first Update.
type statement struct {
	hello    *leasepb.Hello // nil: all is said
	begun    bool           // the hello is out, and messages of holdings follow
	unstated []*pool
	holdings []*leasepb.Holding
}

func (n *Node) beginHello(now time.Duration) {
	n.stream.helloAt = now
	n.era.hellos++
	n.stream.statement = statement{hello: &leasepb.Hello{Protocol: leasepb.Version, Node: n.name, Identity: n.identity,
		Session: n.sess.id, Fresh: n.fresh, Cluster: n.cluster, LimitsVersion: leasepb.LimitsVersion}}
	if n.sess.live() {
		n.stream.statement.unstated = slices.Clone(n.held)
	}
}

// stateSome states the next page of what is held. It returns nothing while a message has room for
// the next page.
func (n *Node) stateSome() []*leasepb.NodeMessage {
	st := &n.stream.statement
	k := min(len(st.unstated), n.bounds.Page)
	for _, p := range st.unstated[:k] {
		n.lock(p)
		p.releasing, p.leaving = 0, 0
		if p.granted > 0 {
			st.holdings = append(st.holdings, &leasepb.Holding{Key: fsmpb.KeyOf(p.key), Slots: p.granted})
		}
		p.mu.Unlock()
	}
	st.unstated = st.unstated[k:]
	more := len(st.unstated) > 0
	if more && len(st.holdings) < n.bounds.Stated {
		return nil
	}
	out := &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Holdings{Holdings: &leasepb.Holdings{Holdings: st.holdings, More: more}}}
	if !st.begun {
		st.begun = true
		st.hello.Holdings, st.hello.More = st.holdings, more
		if more {
			st.hello.Protocol = leasepb.VersionPaged
		}
		out = &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: st.hello}}
	}
	st.holdings = nil
	if !more {
		n.stream.statement = statement{}
	}
	return []*leasepb.NodeMessage{out}
}
