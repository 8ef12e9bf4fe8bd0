package http1

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// Lines, fields and lists, and the characters that they may consist of (RFC 9110 §5, RFC 9112 §5).

// unfold joins folded lines in place: spaces replace the line ends between them (RFC 9112 §5.2). It
// leaves a line alone that starts with a space but follows no field.
func unfold(b []byte) {
	field := false // the line is one, which has been folded: it has a colon
	for line, at := 0, 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return
		}
		end := at + i
		at = end + 1
		empty := end == line || end == line+1 && b[line] == '\r'
		if empty || at == len(b) || !isSpace(b[at]) || !field && bytes.IndexByte(b[line:end], ':') < 0 {
			line, field = at, false
			continue
		}
		field = true
		b[end] = ' '
		if b[end-1] == '\r' {
			b[end-1] = ' '
		}
	}
}

// closeUp removes the space between a field's name and its colon, by moving the name up to the
// colon in place (RFC 9112 §5.1).
func closeUp(line []byte, colon int) []byte {
	name := bytes.TrimRight(line[:colon], " \t")
	gap := colon - len(name)
	copy(line[gap:], name)
	return line[gap:]
}

// parseField parses one line (RFC 9112 §5): no space before the colon, no control characters. With
// tidy, it removes such space.
func parseField(line []byte, tidy bool) (Field, error) {
	end := 0 // of the name
	for end < len(line) && isTokenChar(line[end]) {
		end++
	}
	if end == 0 || end == len(line) || line[end] != ':' {
		closed, err := repairField(line, tidy)
		if err != nil {
			return Field{}, err
		}
		line, end = closed, bytes.IndexByte(closed, ':')
	}
	value := trim(line[end+1:])
	if !isFieldValue(value) {
		return Field{}, errField("a control character in the header field", line[:end])
	}
	return Field{line[:end], value, kindOf(line[:end])}, nil
}

// repairField returns a line that is not a name and a colon as one that is, if only space lies
// between them and tidy allows that.
func repairField(line []byte, tidy bool) ([]byte, error) {
	colon := bytes.IndexByte(line, ':')
	switch {
	case colon < 0:
		return nil, errField("no colon behind the header field", line)
	case !IsToken(bytes.TrimRight(line[:colon], " \t")):
		return nil, errField("malformed name of the header field", line[:colon])
	case !tidy:
		return nil, errField("a space before the colon of the header field", line[:colon])
	}
	return closeUp(line, colon), nil
}

// trim removes optional whitespace from both ends (RFC 9110 §5.6.3).
func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// maxNamedField bounds a field's name in an error.
const maxNamedField = 40

// errField names a refused field, up to the first byte that can't be in a name: what follows may be
// a secret.
func errField(what string, name []byte) error {
	end := 0
	for end < len(name) && end < maxNamedField && isTokenChar(name[end]) {
		end++
	}
	return SyntaxError(what + " \"" + string(name[:end]) + "\"")
}

// errFold names the field that a folded line continues.
func (h *Head) errFold() error {
	if len(h.Fields) == 0 {
		return errFirstFold
	}
	return errField("a second line of the header field", h.Fields[len(h.Fields)-1].Name)
}

// parseLengths parses a Content-Length: a number, or a list that repeats one number, as a sender
// makes when it joins two lines (RFC 9112 §6.3). It is forwarded as one number.
func parseLengths(b []byte) (int64, bool) {
	first, rest, more := bytes.Cut(b, comma)
	n, ok := parseLength(trim(first))
	for ok && more {
		var item []byte
		item, rest, more = bytes.Cut(rest, comma)
		m, valid := parseLength(trim(item))
		ok = valid && m == n
	}
	return n, ok
}

// parseLength parses a length: only digits, and at most 18, which fit an int64.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// cutLine splits b after the first LF, and drops the LF and a CR before it (RFC 9112 §2.2). b must
// contain an LF.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	line, rest = b[:i], b[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest
}

// eachItem calls f for each non-empty element of a comma-separated list (RFC 9110 §5.6.1).
func eachItem(list []byte, f func([]byte)) {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, comma)
		if item = trim(item); len(item) > 0 {
			f(item)
		}
	}
}

var (
	crlf  = []byte("\r\n")
	comma = []byte(",")
)

// equalFold compares b with a lower-case ASCII string, ignoring ASCII case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if d := lower[i]; c != d && !('A' <= d && d <= 'Z' && c == d+('a'-'A')) {
			return false
		}
	}
	return true
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

func isAlpha(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// What a byte may be part of. A table is several times as quick as comparisons, and each head has
// some hundred bytes.
const (
	inToken = 1 << iota // tchar of RFC 9110 §5.6.2
	inValue             // of a field: visible, a space, a tab, or from 0x80 on (RFC 9110 §5.5)
	inHost              // RFC 3986 §3.2.2
)

var charIn = func() (table [256]uint8) {
	for i := range table {
		c := byte(i)
		alphanumeric := isAlpha(c) || '0' <= c && c <= '9'
		if alphanumeric || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			table[i] |= inToken
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			table[i] |= inValue
		}
		if alphanumeric || strings.IndexByte("-._~!$&'()*+,;=:%[]", c) >= 0 {
			table[i] |= inHost
		}
	}
	return table
}()

// all reports whether each byte is of a kind.
func all(b []byte, kind uint8) bool {
	for _, c := range b {
		if charIn[c]&kind == 0 {
			return false
		}
	}
	return true
}

func isTokenChar(c byte) bool { return charIn[c]&inToken != 0 }

// IsToken reports whether b is a token (RFC 9110 §5.6.2).
func IsToken(b []byte) bool { return len(b) > 0 && all(b, inToken) }

// isFieldValue reports whether b has only visible characters, spaces, tabs and bytes from 0x80 on.
func isFieldValue(b []byte) bool {
	for len(b) >= 8 && !hasControl(binary.LittleEndian.Uint64(b)) {
		b = b[8:]
	}
	return all(b, inValue)
}

// hasControl reports whether one of eight bytes is a control character: below 0x20, or 0x7f. The
// lowest such byte has its highest bit set in low or in deleted; without one, no byte has.
func hasControl(v uint64) bool {
	const each = 0x0101010101010101
	low := (v - each*0x20) &^ v
	deleted := v ^ each*0x7f
	deleted = (deleted - each) &^ deleted
	return (low|deleted)&(each*0x80) != 0
}

// isTarget reports whether b can be a request target: not empty, no spaces, no control characters.
func isTarget(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// isHostField also allows names in UTF-8, which IsHost does not. Some clients write them in Host
// beside a target with the same name. The target counts, and this Host is not forwarded.
func isHostField(b []byte) bool {
	if IsHost(b) {
		return true
	}
	ascii := bytes.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return -1
		}
		return r
	}, b)
	return !bytes.ContainsRune(b, utf8.RuneError) && IsHost(ascii) // bytes.Map turns invalid UTF-8 into RuneError
}

// IsHost reports whether b can be the value of a Host field (RFC 3986 §3.2.2), which may be empty.
func IsHost(b []byte) bool { return all(b, inHost) }

// AppendString appends s as a structured field's string (RFC 8941 §3.3.3), with '?' for characters
// that can't be in one.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20 || c > 0x7e:
			dst = append(dst, '?')
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// StatusName returns the node's name for Proxy-Status: a token if it can be one, otherwise a
// string.
func StatusName(node string) string {
	token := node != "" && (isAlpha(node[0]) || node[0] == '*')
	for i := range len(node) {
		token = token && (isTokenChar(node[i]) || node[i] == ':' || node[i] == '/')
	}
	if token {
		return node
	}
	return string(AppendString(nil, node))
}
