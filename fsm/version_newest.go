//go:build !logversion1 && !logversion2

package fsm

// LogVersion is the newest version of the log that this build understands.
const LogVersion uint32 = 3
