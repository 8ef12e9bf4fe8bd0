package proxy

import "strings"

// A request whose Via names this node has come through it before: a loop (RFC 9110 §7.6.3). Nodes
// of two clusters may have the same name and forward to each other without a loop, so Via needs a
// name that is unique: the pseudonym.

// SetPseudonym changes the node's name in Via. No proxy of another cluster may have the same.
func (s *Server) SetPseudonym(name string) {
	name = Pseudonym(name)
	s.pseudonym.Store(&name)
}

// via returns the node's name in Via.
func (s *Server) via() string { return *s.pseudonym.Load() }

// Pseudonym converts a name to the form that Via needs: a token.
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
