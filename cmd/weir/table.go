package main

import (
	"io"
	"strings"
	"unicode"

	"github.com/weirproxy/weir/cmd/weir/top"
)

// table prints aligned columns. A header that begins with a hyphen ("-IN USE") makes its column
// flush right.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	right := make([]bool, len(t.header))
	var rows [][]string
	if len(t.header) > 0 {
		head := make([]string, len(t.header))
		for i, h := range t.header {
			head[i], right[i] = strings.CutPrefix(h, "-")
		}
		rows = append(rows, head)
	}
	for _, row := range t.rows {
		shown := make([]string, len(row))
		for i, cell := range row {
			shown[i] = top.Clean(cell)
		}
		rows = append(rows, shown)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], top.Width(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-top.Width(cell))
			if i < len(right) && right[i] {
				line.WriteString(pad + cell + "  ")
			} else {
				line.WriteString(cell + pad + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printable removes characters in foreign text that would control the terminal or change the
// direction of the text. Line breaks stay.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, s)
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
