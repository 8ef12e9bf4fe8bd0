package http1

import "strings"

// A request whose Via names this node has come through it before: a loop (RFC 9110 §7.6.3). Nodes
// of two clusters may have the same name and forward to each other without a loop, so Via needs a
// name that is unique: the pseudonym.

// ViaName converts a name to the form that Via needs: a token.
func ViaName(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r < 0x80 && isTokenChar(byte(r)) {
			return r
		}
		return '-'
	}, name)
	if clean == "" {
		return "weir"
	}
	return clean
}
