package fsm

// Pattern is a parsed, canonical limit pattern: "host", "host:port", "*.suffix", "*.suffix:port",
// an address, a CIDR, or "*". It is comparable: two spellings give one Pattern.
type Pattern struct {
	text string
}

// ParsePattern parses and normalises; the error says what to write instead.
func ParsePattern(s string) (Pattern, error) { panic("unwritten") }

// String is the canonical form.
func (p Pattern) String() string { return p.text }

// Wildcard reports whether the pattern can match more than one host.
func (p Pattern) Wildcard() bool { panic("unwritten") }
