package top

import (
	"slices"
	"strings"
)

// column is one of a table.
type column struct {
	title string
	width int // its least; 0: it takes what is left
	least int // of a column that takes what is left
	part  int // its part of what is left
	right bool
	order string // the name of the order by it
	rank  int    // those with the highest are the first to be left out
}

// layout chooses the columns that fit, and their widths. A cell of space is between two.
func layout(columns []column, width int) []int {
	widths := make([]int, len(columns))
	in := make([]bool, len(columns))
	byRank := make([]int, len(columns))
	for i := range columns {
		byRank[i] = i
	}
	slices.SortStableFunc(byRank, func(a, b int) int { return columns[a].rank - columns[b].rank })
	left := width + 1
	parts := 0
	for _, i := range byRank {
		c := columns[i]
		need := max(c.width, c.least) + 1
		if need > left {
			break
		}
		in[i], left = true, left-need
		widths[i] = need - 1
		parts += c.part
	}
	for i, c := range columns {
		if in[i] && c.part > 0 {
			more := left * c.part / parts
			widths[i], left, parts = widths[i]+more, left-more, parts-c.part
		}
	}
	return widths
}

// header is a table's first line; the column that it is sorted by has an arrow.
func (m *Model) header(columns []column, widths []int, sorted bool) string {
	var cells []string
	for i, c := range columns {
		if widths[i] == 0 {
			continue
		}
		title := c.title
		if sorted && c.order != "" && c.order == orders()[m.sort].name {
			title += m.arrow()
		}
		cells = append(cells, fit(title, widths[i], c.right, m.opt.more()))
	}
	return m.opt.paint(inverse, fit(strings.Join(cells, " "), m.width, false, ""))
}

func (m *Model) arrow() string {
	down := (orders()[m.sort].name != "host") != m.reverse
	switch {
	case m.opt.Unicode && down:
		return "▼"
	case m.opt.Unicode:
		return "▲"
	case down:
		return "v"
	}
	return "^"
}

// styled is a cell's text and look.
type styled struct {
	text string
	look look
	raw  bool // it has its width and its looks already
}

func (m *Model) row(columns []column, widths []int, cells []styled) string {
	var out []string
	for i, c := range columns {
		if widths[i] == 0 {
			continue
		}
		if cells[i].raw {
			out = append(out, cells[i].text)
			continue
		}
		out = append(out, m.opt.paint(cells[i].look, fit(cells[i].text, widths[i], c.right, m.opt.more())))
	}
	return strings.Join(out, " ")
}
