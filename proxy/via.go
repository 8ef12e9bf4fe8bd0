package proxy

import "strings"

// A request whose Via names this node has come through it before, which is a loop (RFC 9110
// §7.6.3). Nodes of two clusters may have one name, and stand behind each other without a loop:
// what Via names must be the node's own.

// SetPseudonym changes what the node is called in Via. No proxy of another cluster may be called
// the same.
func (s *Server) SetPseudonym(name string) {
	name = Pseudonym(name)
	s.pseudonym.Store(&name)
}

// via is the node in Via.
func (s *Server) via() string { return *s.pseudonym.Load() }

// Pseudonym is a name as Via has it: a token.
func Pseudonym(name string) string {
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
