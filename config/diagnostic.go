package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
)

const (
	maxPrinted  = 50  // diagnostics written out; the rest is counted
	maxLineText = 160 // runes of a source line shown

	maxNameCompared = 64 // bytes: comparing costs the product of both lengths

	secretAttribute = "gossip_key"         // what follows it on its line isn't shown: diagnostics end up in logs
	secretList      = "gossip_accept_keys" // nor what follows it, as far as its list goes
)

// Format implements fmt.Formatter.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(hidden)") }

// Position is a place in a file. Line and Column count from 1.
type Position struct {
	File   string
	Line   int
	Column int
	// Text is the source line, without its end.
	Text string
}

// String is "file:line,col", the file alone where there is no line, "" for no place.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d,%d", p.File, p.Line, p.Column)
}

// Diagnostic is one problem.
type Diagnostic struct {
	At      Position
	Message string // what is wrong
	Hint    string // what to write or do instead; may be empty
	Warning bool   // a node may run with it
}

// String is the problem on one line, for a log.
func (d Diagnostic) String() string {
	s := d.Message
	if at := d.At.String(); at != "" {
		s = at + ": " + s
	}
	if d.Hint != "" {
		s += ". " + d.Hint
	}
	return s
}

// Diagnostics are problems, ordered by file and line.
type Diagnostics []Diagnostic

// Err returns nil if there are no problems, else an error with the text of WriteDiagnostics.
func (ds Diagnostics) Err() error {
	if len(ds) == 0 {
		return nil
	}
	var b strings.Builder
	_ = WriteDiagnostics(&b, ds)
	return errors.New(strings.TrimSpace(b.String()))
}

// WriteDiagnostics writes problems for people, each as its position and message, the source line,
// and the hint:
//
//	Error: a.hcl:12,3: unknown attribute "conections"
//	  12 |   conections = 5
//	  Did you mean "connections"?
//
// More than fifty are cut, and counted. The error is the writer's.
func WriteDiagnostics(w io.Writer, ds []Diagnostic) error {
	var b bytes.Buffer
	for i, d := range ds {
		if i == maxPrinted {
			fmt.Fprintf(&b, "… and %d more\n", len(ds)-i)
			break
		}
		b.WriteString(map[bool]string{false: "Error: ", true: "Warning: "}[d.Warning])
		if at := d.At.String(); at != "" {
			b.WriteString(at + ": ")
		}
		b.WriteString(printable(d.Message) + "\n")
		if d.At.Line > 0 && d.At.Text != "" {
			fmt.Fprintf(&b, "  %d | %s\n", d.At.Line, d.At.Text)
		}
		if d.Hint != "" {
			b.WriteString("  " + printable(d.Hint) + "\n")
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// problems collects diagnostics and knows the files that they point into.
type problems struct {
	files map[string][]byte
	lines map[string]*lineIndex // of files, made when a position in one is first asked for
	found Diagnostics
}

func (p *problems) add(at Position, message, hint string) {
	p.found = append(p.found, Diagnostic{At: at, Message: message, Hint: hint})
}

// parser adds the HCL parser's problems with a file. A missing quote causes the same problem on
// every later line: only the first is kept.
func (p *problems) parser(diags hcl.Diagnostics) {
	said := map[string]bool{}
	for _, d := range diags {
		if said[d.Summary+d.Detail] {
			continue
		}
		said[d.Summary+d.Detail] = true
		var at Position
		if d.Subject != nil {
			at = p.position(*d.Subject)
		}
		p.add(at, lowerFirst(d.Summary), d.Detail)
	}
}

// sorted orders by file as first seen, then line and column.
func (p *problems) sorted(order []string) Diagnostics {
	place := make(map[string]int, len(order)) // from 1, so that a file that was not read comes first
	for i, name := range order {
		place[name] = i + 1
	}
	slices.SortStableFunc(p.found, func(a, b Diagnostic) int {
		return cmp.Or(
			cmp.Compare(place[a.At.File], place[b.At.File]),
			cmp.Compare(a.At.Line, b.At.Line),
			cmp.Compare(a.At.Column, b.At.Column),
		)
	})
	return p.found
}

// position is the start of a range, with its line's text.
func (p *problems) position(r hcl.Range) Position {
	return Position{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column, Text: p.line(r.Filename, r.Start.Byte)}
}

// fileStart returns the position for a missing attribute.
func (p *problems) fileStart(name string) Position {
	return Position{File: name, Line: 1, Column: 1, Text: p.line(name, 0)}
}

// line returns the text of the line with the byte at offset, without secrets.
func (p *problems) line(name string, offset int) string {
	src := p.files[name]
	if offset < 0 || offset > len(src) {
		return ""
	}
	lines := p.lines[name]
	if lines == nil {
		lines = newLineIndex(src)
		if p.lines == nil {
			p.lines = map[string]*lineIndex{}
		}
		p.lines[name] = lines
	}
	start, end, hidden := lines.at(offset)
	line := src[start:min(end, start+4*maxLineText)] // a rune has at most four bytes
	for _, secret := range []string{secretAttribute, secretList} {
		if before, _, found := bytes.Cut(line, []byte(secret)); found {
			line = append(slices.Clone(before), secret+" = (hidden)"...)
		}
	}
	if hidden {
		line = []byte("(hidden)")
	}
	text := []rune(strings.TrimRight(printable(string(line)), " "))
	if len(text) > maxLineText {
		text = append(text[:maxLineText-1], '…')
	}
	return string(text)
}

// printable removes characters that would control the terminal. Tabs become a space, as in the
// column's count.
func printable(s string) string {
	s = strings.TrimSuffix(s, "\r")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n':
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// nearest returns the candidate that s was most likely meant to be, or "": the one with the fewest
// edits, else one that is a prefix of s or has s as a prefix.
func nearest(s string, candidates []string) string {
	if len(s) > maxNameCompared {
		return ""
	}
	s = strings.ToLower(s)
	best, distance := "", 1+max(1, len(s)/3)
	for _, c := range candidates {
		if d := editDistance(s, c); d < distance {
			best, distance = c, d
		}
	}
	if best != "" || len(s) < 3 {
		return best
	}
	for _, c := range candidates {
		if strings.HasPrefix(s, c) || strings.HasPrefix(c, s) {
			return c
		}
	}
	return ""
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// quoted lists names for a message: "a", "b" or "c".
func quoted[S ~string](names []S) string {
	var b strings.Builder
	for i, n := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", string(n))
	}
	return b.String()
}
