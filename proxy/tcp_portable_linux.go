//go:build portable

package proxy

// allowLateOptions does nothing: Linux always allows them.
func allowLateOptions(int) {}
