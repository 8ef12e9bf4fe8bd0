//go:build portable

package proxy

// allowLateOptions is for systems that refuse to set options at a connection's end.
func allowLateOptions(int) {}
