//go:build logversion2

package fsm

// LogVersion is 2 in builds that stand for the second version, in tests of upgrades.
const LogVersion uint32 = 2
