package proxy

import (
	"bytes"
	"unicode/utf8"
)

// Lines, fields, lists and the characters that they may be made of (RFC 9110 §5, RFC 9112 §5).

// unfold puts the continuations of folded lines on the lines before them, in place, with spaces for
// the line's end (RFC 9112 §5.2). A line that continues no field stays as it is.
func unfold(b []byte) {
	for line, at := 0, 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return
		}
		end := at + i
		at = end + 1
		empty := end == line || end == line+1 && b[line] == '\r'
		if empty || at == len(b) || !isSpace(b[at]) || bytes.IndexByte(b[line:end], ':') < 0 {
			line = at
			continue
		}
		b[end] = ' '
		if b[end-1] == '\r' {
			b[end-1] = ' '
		}
	}
}

// closeUp removes the space between a field's name and its colon, in place: the name moves up to
// the colon (RFC 9112 §5.1).
func closeUp(line []byte) []byte {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || !isSpace(line[colon-1]) {
		return line
	}
	name := bytes.TrimRight(line[:colon], " \t")
	gap := colon - len(name)
	copy(line[gap:], name)
	return line[gap:]
}

// parseField reads one line (RFC 9112 §5): no space before the colon, no control characters.
func parseField(line []byte) (field, error) {
	colon := bytes.IndexByte(line, ':')
	switch {
	case colon < 0:
		return field{}, errField("no colon behind the header field", line)
	case !isToken(line[:colon]) && isToken(bytes.TrimRight(line[:colon], " \t")):
		return field{}, errField("a space before the colon of the header field", line[:colon])
	case !isToken(line[:colon]):
		return field{}, errField("malformed name of the header field", line[:colon])
	}
	value := bytes.Trim(line[colon+1:], " \t")
	if !isFieldValue(value) {
		return field{}, errField("a control character in the header field", line[:colon])
	}
	return field{line[:colon], value, kindOf(line[:colon])}, nil
}

// maxNamedField bounds the name of a field in an error.
const maxNamedField = 40

// errField names a field that is refused, as far as it has a name: what follows may be a secret.
func errField(what string, name []byte) error {
	end := 0
	for end < len(name) && end < maxNamedField && isTokenChar(name[end]) {
		end++
	}
	return syntaxError(what + " \"" + string(name[:end]) + "\"")
}

// errFold names the field that a line continues.
func (h *head) errFold() error {
	if len(h.fields) == 0 {
		return errFirstFold
	}
	return errField("a second line of the header field", h.fields[len(h.fields)-1].name)
}

// parseLengths reads a Content-Length: a number, or a list of the same number, as whoever joins two
// lines makes of them (RFC 9112 §6.3). It goes on as one number.
func parseLengths(b []byte) (int64, bool) {
	first, rest, more := bytes.Cut(b, comma)
	n, ok := parseLength(bytes.Trim(first, " \t"))
	for ok && more {
		var item []byte
		item, rest, more = bytes.Cut(rest, comma)
		m, valid := parseLength(bytes.Trim(item, " \t"))
		ok = valid && m == n
	}
	return n, ok
}

// parseLength reads a length: digits alone, within an int64.
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

// cutLine splits at the first LF, and drops the CR before it, where there is one (RFC 9112 §2.2).
// The caller knows that there is an LF.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	line, rest = b[:i], b[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest
}

// eachItem calls f for each element of a comma-separated list (RFC 9110 §5.6.1), empty ones left
// out.
func eachItem(list []byte, f func([]byte)) {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, comma)
		if item = bytes.Trim(item, " \t"); len(item) > 0 {
			f(item)
		}
	}
}

var (
	crlf  = []byte("\r\n")
	comma = []byte(",")
)

// equalFold compares with a lower-case ASCII string.
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

// isTokenChar is tchar of RFC 9110 §5.6.2.
func isTokenChar(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return isAlpha(c) || '0' <= c && c <= '9'
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !isTokenChar(c) {
			return false
		}
	}
	return len(b) > 0
}

// isFieldValue allows visible characters, spaces, tabs and bytes from 0x80 on.
func isFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isTarget allows what a request target may carry: no control characters, no spaces.
func isTarget(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// isHostField allows what isHost does, and names in UTF-8, which some clients write beside a target
// that names the same: the target counts, and no upstream sees this one.
func isHostField(b []byte) bool {
	if isHost(b) {
		return true
	}
	ascii := bytes.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return -1
		}
		return r
	}, b)
	return !bytes.ContainsRune(b, utf8.RuneError) && isHost(ascii) // which finds what is no UTF-8, too
}

// isHost allows what a Host field may carry (RFC 3986 §3.2.2), the empty one included.
func isHost(b []byte) bool {
	for _, c := range b {
		if !isAlpha(c) && !('0' <= c && c <= '9') && bytes.IndexByte([]byte("-._~!$&'()*+,;=:%[]"), c) < 0 {
			return false
		}
	}
	return true
}
