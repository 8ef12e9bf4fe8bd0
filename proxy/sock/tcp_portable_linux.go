//go:build portable

package sock

// allowLateOptions does nothing: Linux always allows them.
func allowLateOptions(int) {}
