//go:build logversion1

package fsm

// LogVersion is 1 in builds that stand for the first version, in tests of upgrades.
const LogVersion uint32 = 1
