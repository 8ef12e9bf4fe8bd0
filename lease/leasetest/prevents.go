package leasetest

import "slices"

// The invariants that several rules keep together.
var (
	capHolds = []Breach{BreachOverLimit, BreachByte, BreachOverRate}               // nothing outlives its session, so nothing is above the limit
	beliefs  = []Breach{BreachBelief, BreachOverLimit, BreachOverRate}             // no node holds more than the log grants
	leaks    = []Breach{BreachStarved, BreachUnrest}                               // no slot stays granted to a node that does not have it
	clusters = []Breach{BreachOverLimit, BreachByte, BreachBelief, BreachOverRate} // no grant of another log is used
)

// prevents is what each rule is there to prevent: the kinds of breach that count as finding that it
// is broken.
var prevents = map[Rule][]Breach{
	RuleFromAnswer:       {BreachOverLimit, BreachByte},
	RuleUnverified:       capHolds,
	RuleStaleProof:       capHolds,
	RuleCloseEarly:       capHolds,
	RuleNoMargin:         capHolds,
	RuleNewLeaderForgets: capHolds,
	RuleAsksItself:       capHolds,
	RuleOldestContact:    capHolds,
	RuleForgetsContact:   capHolds,
	RuleNoFence:          capHolds,
	RuleFenceLate:        capHolds,
	RuleTimerOnly:        {BreachOverLimit, BreachByte},
	RuleSeverIgnored:     {BreachOverLimit},
	RuleBytesAfter:       {BreachByte},
	RuleClockStops:       capHolds,
	RuleWallIgnored:      capHolds,
	RuleUncommitted:      beliefs,
	RuleReleaseInUse:     beliefs,
	RuleOtherIdentity:    capHolds,
	RuleNoRest:           {BreachOverLimit},
	RuleNewLeaderNoRest:  {BreachOverLimit},
	RuleUnproven:         capHolds,
	RuleStaleStatement:   beliefs,
	RuleKeepMissing:      leaks,
	RuleKeepDifference:   beliefs,
	RuleBeforeExchange:   beliefs,
	RuleReleaseEarly:     {BreachOverLimit},
	RulePutBackGrants:    clusters,
	RulePutBackLevels:    {BreachOverRate},
	RuleOtherCluster:     clusters,
	RuleSecondCluster:    clusters,
	RuleGateOpen:         {BreachOverLimit},
	RuleKeepsClaims:      leaks,
	RuleOtherOrder:       {BreachCircle},
	RuleReusedFree:       {BreachOverLimit},
	RuleUnitFull:         {BreachOverRate},
	RuleTokensLate:       {BreachOverRate},
	RuleUnitsKept:        {BreachOverRate, BreachBelief},
	RuleNoCut:            {BreachOverRate},
	RuleLevelTwice:       {BreachOverRate},
	RuleLevelUnsaid:      {BreachStarved},
	RuleLevelLost:        {BreachStarved},
	RuleUnitsFreedEarly:  {BreachOverRate},
	RuleTwoFill:          {BreachOverRate, BreachBelief},
	RuleFullSpeed:        {BreachOverRate},
	RuleTokensEarly:      {BreachOverRate},
	RulePieceOutlives:    {BreachOverRate},
	RulePieceTwice:       {BreachOverRate},
	RulePieceHeld:        {BreachOverRate},
	RuleLoweredKeeps:     {BreachOverRate},
	RuleForgottenFull:    {BreachOverRate},
	RuleOwnAnew:          {BreachOverRate},
	RuleRefill:           {BreachOverRate},
	RuleSmallBurst:       {BreachOverRate},
	RuleUncut:            {BreachOverGranted},
	RuleClosedIncrease:   leaks,
	RuleBelowZero:        beliefs,
	RuleCloseKeeps:       {BreachFreed},
	RuleStaleTerm:        clusters,
	RuleRepeated:         beliefs,
}

// besides is what a rule's switch brings about as well, by the way in which it breaks the rule:
// such a run is passed over.
var besides = map[Rule][]Breach{
	RuleUnitsFreedEarly: {BreachNoSession, BreachOverLimit, BreachByte, BreachStarved}, // slots of such a session are freed early too, and units come back empty
	RuleFromAnswer:      {BreachUnrest, BreachOverRate},                                // the node's clock goes back and forth, and with it the time at which it gives slots back, and its buckets
	RuleTimerOnly:       {BreachOverRate},                                              // the node's clock goes in leaps, and so its buckets fill
	RuleCloseEarly:      {BreachNoSession},                                             // a session may be closed before its node has sent a keep-alive
	RuleUnproven:        {BreachUnrest, BreachStarved},                                 // the session that a late hello opened stays, and holds what was granted to it
	RuleStaleTerm:       {BreachUnrest},                                                // no leader tells a node what such an entry grants
	RuleRepeated:        {BreachUnrest},                                                // the same
	RulePieceOutlives:   {BreachStarved},                                               // flows are so late when it is their turn that too little is used
}

// Finds reports whether a breach shows that the rule is broken. Without a rule (0), every breach
// counts.
func (r Rule) Finds(b Breach) bool {
	if r == 0 {
		return b != BreachNone
	}
	return slices.Contains(prevents[r], b)
}
