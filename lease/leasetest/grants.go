package leasetest

import "github.com/weirproxy/weir/fsm"

// maxIdleGrants is how often slots of one key may be granted one after the other without a use of
// any. Nodes in turn may each ask for some, and find that they are of no use to them. Of a rate
// only those grants count that give a node what it alone has just given back: where tokens are
// rare, many ask for one in vain.
const maxIdleGrants = 40

// adjusted checks what an entry gave.
func (u *upstream) adjusted(st *fsm.State, res fsm.Result) {
	for _, a := range res.Adjusted {
		if a.Delta < 0 {
			u.lost(a)
		}
		if a.Delta <= 0 {
			continue
		}
		if _, open := st.Session(a.Session); !open {
			u.w.fail(BreachClosedGrant, "session %d, which is not open, was granted %d slots of %s", a.Session, a.Delta, a.Key)
		}
		k := &u.keys[u.keyOf(a.Key)]
		if n := st.Granted(a.Key); n > max(k.capacity, 0) && n > k.granted {
			u.w.fail(BreachOverGranted, "%d slots of %s are granted, the limit is %d", n, a.Key, k.capacity)
		}
		if k.rate == nil || returned(res, a) {
			k.idleGrants++
		}
		if u.w.final && k.idleGrants > maxIdleGrants {
			u.w.fail(BreachToAndFro, "%d grants of %s one after the other, and nobody used what they brought", k.idleGrants, a.Key)
		}
	}
}

// returned reports whether the entry only takes from a session what it gives it again.
func returned(res fsm.Result, a fsm.Adjustment) bool {
	took := false
	for _, b := range res.Adjusted {
		if b.Key != a.Key {
			continue
		}
		if b.Session != a.Session {
			return false
		}
		took = took || b.Delta < 0
	}
	return took
}

// lost checks that who lost slots in the log had given them up before.
func (u *upstream) lost(a fsm.Adjustment) {
	for _, x := range u.w.everybody() {
		if x.running && x.node.Session(x.clock()).ID == a.Session {
			u.agrees(x)
		}
	}
}
