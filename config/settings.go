package config

import "fmt"

// Setting is one attribute of a running configuration, for people: a secret is "(hidden)".
type Setting struct {
	Path  string // "proxy.listen"
	Value string // as a file would have it
	At    string // file:line where it is set; "" where no line sets this value
}

// Settings lists every attribute outside limits, in the order of the reference. The log and the API
// may show it to who administers the node: it holds no secret.
func Settings(c *Config) []Setting {
	var out []Setting
	for _, f := range configFields() {
		s := Setting{Path: f.Path, Value: f.text(c)}
		if at, ok := c.Origins[f.Path]; ok {
			s.At = fmt.Sprintf("%s:%d", at.File, at.Line)
		}
		out = append(out, s)
	}
	return out
}
