package weir

import "runtime/debug"

// modulePath is this module's.
const modulePath = "github.com/weirproxy/weir"

// ownVersion is the version of this module in the running program; "dev" if it has none.
func ownVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath && m.Version != "" && m.Version != "(devel)" {
			return m.Version
		}
	}
	return "dev"
}
