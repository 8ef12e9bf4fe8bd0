package leasetest

// Breach is a kind of breach: the invariant, or the promise, that a run broke.
type Breach uint8

// The kinds.
const (
	BreachNone        Breach = iota
	BreachPlan               // the plan can't be run
	BreachEncoding           // what was written can't be read
	BreachOverLimit          // the upstream saw more connections than the limit
	BreachByte               // a byte moved on a connection whose session had ended
	BreachBelief             // a node believed to hold more than the log granted
	BreachOverGranted        // the log granted more than the limit
	BreachClosedGrant        // the log granted slots to a session that was not open
	BreachFreed              // a session's end did not free exactly what it had
	BreachState              // the replicated state contradicts itself
	BreachReplicas           // two replicas differ
	BreachNode               // a node contradicts itself
	BreachLeader             // the leader's side contradicts itself
	BreachNoSession          // a node had no session long after the last fault
	BreachStarved            // a request was not served though it could have been
	BreachNotEvicted         // connections above a lowered limit were not closed
	BreachOverRate           // more tokens were taken in some time than the rate allows
	BreachCircle             // requests waited for each other
	BreachReport             // a limit that only reports was in the way
	BreachUnrest             // something was left in hand when nobody worked any more
	BreachToAndFro           // slots went from node to node, and nobody used them

	breaches
)

var breachNames = [breaches]string{
	"none", "plan", "encoding", "over-limit", "byte-after-end", "belief", "over-granted", "closed-grant", "freed", "state", "replicas",
	"node", "leader", "no-session", "starved", "not-evicted", "over-rate", "circle", "report", "unrest", "to-and-fro",
}

// String is the kind's name.
func (b Breach) String() string { return breachNames[b] }
