package top

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// What a cell of a bar shows.
type cellKind int

const (
	cellFree    cellKind = iota // a slot that nobody was granted
	cellUsed                    // a connection
	cellIdle                    // granted, without a connection
	cellHeld                    // granted to a node that is gone, and not reclaimed yet
	cellWaiting                 // a request that waits
)

type cell struct {
	kind cellKind
	node int // its number
}

// share is one node's part of a bar.
type share struct {
	node, used, idle, held int64
}

// bar draws a host's use in so many cells: what is in use first, node by node, then what is granted
// beyond it, then what nodes that are gone still hold, then what is free up to the limit, then who
// waits. full is what all cells stand for where there is no limit. What is there has a cell at
// least, and only a bar that is full looks full.
func bar(width int, limit *int64, shares []share, waiting, full int64) []cell {
	var used, idle, held int64
	for _, s := range shares {
		used, idle, held = used+s.used, idle+s.idle, held+s.held
	}
	scale := used + idle + held
	if limit != nil {
		scale = max(scale, *limit)
	} else {
		scale = max(scale, full)
	}
	cells := make([]cell, width)
	end := width
	if waiting > 0 {
		// Who waits never takes more than a third.
		end = width - max(1, min(width/3, int(int64(width)*waiting/max(1, scale+waiting))))
		for i := max(0, end); i < width; i++ {
			cells[i] = cell{kind: cellWaiting}
		}
	}
	at := func(amount int64) int {
		if amount >= scale {
			return end
		}
		n := int((amount*int64(end) + scale/2) / scale)
		if amount > 0 {
			n = max(1, n)
		}
		return min(n, max(0, end-1))
	}
	if scale == 0 || end <= 0 {
		return cells
	}
	usedTo := at(used)
	idleTo := max(usedTo, at(used+idle))
	heldTo := max(idleTo, at(used+idle+held))
	divide(cells[:usedTo], cellUsed, shares, used, func(s share) int64 { return s.used })
	divide(cells[usedTo:idleTo], cellIdle, shares, idle, func(s share) int64 { return s.idle })
	divide(cells[idleTo:heldTo], cellHeld, shares, held, func(s share) int64 { return s.held })
	return cells
}

// divide gives each node its part of the cells.
func divide(cells []cell, kind cellKind, shares []share, total int64, of func(share) int64) {
	var before int64
	from := 0
	for _, s := range shares {
		if before += of(s); of(s) == 0 {
			continue
		}
		to := int((before*int64(len(cells)) + total/2) / total)
		for i := from; i < to; i++ {
			cells[i] = cell{kind, int(s.node)}
		}
		from = max(from, to)
	}
}

// palette are the colours that nodes have, by their numbers; then they begin anew.
func palette() []ansi.BasicColor {
	return []ansi.BasicColor{ansi.Blue, ansi.Green, ansi.Magenta, ansi.Cyan, ansi.Yellow, ansi.BrightBlue, ansi.BrightGreen, ansi.BrightMagenta}
}

// letter names a node in bars that have no colours.
func letter(node int) byte { return byte('A' + node%26) }

// key is the sign that ties a node's row to its part of the bars.
func (o Options) key(node int) string {
	if !o.Colour {
		return string(letter(node))
	}
	sign := "#"
	if o.Unicode {
		sign = "█"
	}
	return ansi.NewStyle().ForegroundColor(palette()[node%len(palette())]).Styled(sign)
}

// drawn is a bar as text. With colours, nodes are told apart by them; without, by letters: a
// connection is a capital one.
func (o Options) drawn(cells []cell) string {
	var b strings.Builder
	for from := 0; from < len(cells); {
		to := from
		for to < len(cells) && cells[to] == cells[from] {
			to++
		}
		b.WriteString(o.run(cells[from], to-from))
		from = to
	}
	return b.String()
}

// run is n equal cells.
func (o Options) run(c cell, n int) string {
	signs := []string{".", "#", "=", "x", ">"}
	if o.Unicode {
		signs = []string{"·", "█", "▒", "░", "»"}
	}
	if !o.Colour && c.kind == cellUsed {
		signs[c.kind] = string(letter(c.node))
	}
	if !o.Colour && c.kind == cellIdle {
		signs[c.kind] = strings.ToLower(string(letter(c.node)))
	}
	text := strings.Repeat(signs[c.kind], n)
	switch {
	case c.kind == cellFree:
		return o.paint(faint, text)
	case c.kind == cellWaiting:
		return o.paint(warn, text)
	case !o.Colour:
		return text
	}
	return ansi.NewStyle().ForegroundColor(palette()[c.node%len(palette())]).Styled(text)
}
