package top

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// Clean replaces what could steer a terminal, or turn the direction of its text, by question marks:
// everything that is not a letter, a mark, a number, a sign or a space.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// Width is how many cells of a terminal a text takes.
func Width(s string) int { return ansi.StringWidth(s) }

// fit makes a text exactly width cells wide: what is too long is cut, with a sign that it was.
func fit(s string, width int, right bool, more string) string {
	if width <= 0 {
		return ""
	}
	if Width(s) > width {
		s = ansi.Truncate(s, width, more)
	}
	pad := strings.Repeat(" ", max(0, width-Width(s)))
	if right {
		return pad + s
	}
	return s + pad
}

// number is a count in at most six characters: 12,345, 123k, 1.2M.
func number(n uint64) string {
	const million = 1_000_000
	switch {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 100_000:
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	case n < million:
		return fmt.Sprintf("%dk", n/1000)
	case n < 10*million:
		return fmt.Sprintf("%.1fM", float64(n/100_000)/10)
	case n < 100_000*million:
		return fmt.Sprintf("%dM", n/million)
	}
	return fmt.Sprintf("%.0e", float64(n))
}

func count(n int64) string { return number(uint64(max(0, n))) }

// perSecond is a rate: <0.1, 0.4, 12, 1,234.
func perSecond(v float64) string {
	switch {
	case v <= 0:
		return "0"
	case v < 0.05:
		return "<0.1"
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	return number(uint64(v + 0.5))
}

// size is a number of bytes: 512B, 1.2K, 34M.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, units[unit])
	}
	return fmt.Sprintf("%.0f%c", v, units[unit])
}

// age is a duration in two units at most: 4.2s, 3m05s, 2h10m, 5d02h.
func age(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// look is a colour or an emphasis; without colours, emphasis is all there is.
type look int

const (
	plain look = iota
	bold
	faint
	good
	warn
	bad
	inverse
)

// paint puts a look around a text.
func (o Options) paint(l look, s string) string {
	st := ansi.NewStyle()
	switch l {
	case plain:
		return s
	case bold:
		st = st.Bold()
	case faint:
		st = st.Faint()
	case good:
		st = o.coloured(st, ansi.Green)
	case warn:
		st = o.coloured(st.Bold(), ansi.Yellow)
	case bad:
		st = o.coloured(st.Bold(), ansi.Red)
	case inverse:
		st = st.Reverse(true)
	}
	if len(st) == 0 {
		return s
	}
	return st.Styled(s)
}

func (o Options) coloured(st ansi.Style, c ansi.BasicColor) ansi.Style {
	if o.Colour {
		st = st.ForegroundColor(c)
	}
	return st
}

// more is the sign that a text was cut.
func (o Options) more() string {
	if o.Unicode {
		return "…"
	}
	return "~"
}
