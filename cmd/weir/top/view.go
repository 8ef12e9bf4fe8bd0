package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirproxy/weir/config"
)

// Frame is the screen's text at a moment: exactly as many lines as the terminal has, none longer
// than it is wide.
func (m *Model) Frame(now time.Time) string {
	if m.width < 20 || m.height < 6 {
		return m.finish([]string{"too small"})
	}
	if m.help {
		return m.finish(m.helpLines())
	}
	lines := m.head(now)
	switch {
	case m.picture == nil:
		if m.lost == "" {
			lines = append(lines, "", "waiting for "+Clean(m.opt.Addr)+" …")
		}
	case m.host != "":
		lines = append(lines, m.hostView()...)
	default:
		if !m.opt.HostList {
			lines = append(lines, m.nodeTable(now)...)
			lines = append(lines, "")
		}
		lines = append(lines, m.hostTable()...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	return m.finish(append(lines[:m.height-1], m.foot()))
}

// finish cuts lines to the terminal's width and fills up its height.
func (m *Model) finish(lines []string) string {
	for len(lines) < m.height {
		lines = append(lines, "")
	}
	lines = lines[:m.height]
	for i, line := range lines {
		if Width(line) > m.width {
			line = fit(line, m.width, false, m.opt.more())
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// head is the first lines: whose view this is, the sums, and what is wrong or happened last.
func (m *Model) head(now time.Time) []string {
	st := m.cluster.status
	left := m.opt.paint(bold, "weir")
	if st.Node != "" {
		leader := m.opt.paint(bad, "nobody leads")
		if st.Leader != "" {
			leader = fmt.Sprintf("leader %s, term %d", Clean(st.Leader), st.Raft.Term)
		}
		left += fmt.Sprintf("  node %s (%s)  %s", Clean(st.Node), Clean(st.Version), leader)
	}
	right := "every " + config.FormatDuration(m.opt.Interval)
	if m.paused {
		right = m.opt.paint(inverse, " paused ")
	}
	lines := []string{m.ends(left, right)}
	if p := m.picture; p != nil {
		admitted, refused, idle := "admitted", "refused", " ("+count(p.total.Idle)+" idle)"
		if m.width < 100 {
			admitted, refused, idle = "adm", "ref", ""
		}
		lines = append(lines, fmt.Sprintf("nodes %d  hosts %s  in use %s%s  granted %s  waiting %s  "+admitted+" %s/s  "+refused+" %s/s",
			len(p.nodes), number(uint64(len(p.hosts)+m.cluster.use.More)), count(p.total.InUse), idle, count(p.total.Granted),
			m.alarm(p.total.Waiting > 0, warn, count(p.total.Waiting)), perSecond(p.rate.admitted), m.alarm(p.rate.refused > 0, bad, perSecond(p.rate.refused))))
	}
	return append(lines, m.news(now)...)
}

func (m *Model) alarm(when bool, l look, text string) string {
	if when {
		return m.opt.paint(l, text)
	}
	return text
}

// ends sets two texts at the ends of a line; the left one is cut first.
func (m *Model) ends(left, right string) string {
	room := m.width - Width(right) - 1
	if room < Width(left) && room < 20 {
		return left
	}
	return fit(left, room, false, m.opt.more()) + " " + right
}

// roomForBoth is the least height of a terminal that shows the last event beside what is wrong.
const roomForBoth = 20

// news is what is wrong, and the last event; one of them where there is little room.
func (m *Model) news(now time.Time) []string {
	var lines []string
	if m.lost != "" {
		wait := max(0, m.retryAt.Sub(now)).Round(time.Second)
		lines = append(lines, m.opt.paint(bad, fmt.Sprintf("No answer: %s. Trying again in %s.", Clean(m.lost), config.FormatDuration(wait))))
	} else if wrong := m.troubles(); m.picture != nil && len(wrong) > 0 {
		lines = append(lines, m.opt.paint(warn, strings.Join(wrong, "; ")))
	}
	if m.picture != nil && m.picture.event != nil && (len(lines) == 0 || m.height >= roomForBoth) {
		e := m.picture.event
		lines = append(lines, m.opt.paint(faint, e.Time.In(now.Location()).Format(time.TimeOnly)+"  "+Clean(e.Text)))
	}
	if len(lines) == 0 {
		lines = append(lines, "")
	}
	return lines
}

// troubles are what an operator should know of the node, and of the view.
func (m *Model) troubles() []string {
	var wrong []string
	add := func(when bool, format string, args ...any) {
		if when {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	st := m.cluster.status
	add(st.Leaving, "%s is leaving the cluster", Clean(st.Node))
	add(st.Draining && !st.Leaving, "%s is draining", Clean(st.Node))
	add(st.Node != "" && !st.Ready && !st.Draining && !st.Leaving, "%s is not ready", Clean(st.Node))
	add(st.DiskFull, "the disk of %s is full or read-only", Clean(st.Node))
	add(st.DiskStalled, "the disk of %s has stalled", Clean(st.Node))
	for _, u := range m.cluster.use.Unreachable {
		add(true, "not included: node %s (%s)", Clean(u.Node), Clean(u.Error))
	}
	add(len(st.ConfigDisagreements) > 0, "configs disagree: %s", Clean(strings.Join(st.ConfigDisagreements, ", ")))
	add(m.cluster.use.More > 0, "%s hosts with less use are left out", number(uint64(m.cluster.use.More)))
	add(m.scope != hostScope && m.uses.more, "more than the %s names with the most in use: weir usage %s --prefix finds the others",
		number(uint64(len(m.uses.rows))), m.scope)
	return wrong
}

// foot is the last line: the filter, or what keys there are.
func (m *Model) foot() string {
	if m.typing {
		return m.ends("/"+Clean(m.filter)+m.opt.paint(inverse, " "), "Enter keeps it, Esc drops it")
	}
	keys := "?:help  q:quit  /:filter  </>:sort  space:pause  enter:open"
	switch {
	case m.host != "":
		keys = "?:help  q:quit  esc:back  space:pause"
	case !m.opt.HostList:
		keys += "  tab:nodes  s:scope"
	}
	if m.host == "" && m.picture != nil {
		place := fmt.Sprintf("%d of %d", min(m.hosts.cursor+1, len(m.shown)), len(m.shown))
		if m.filter != "" {
			place = fmt.Sprintf("%q: %s", Clean(m.filter), place)
		}
		return m.ends(m.opt.paint(faint, keys), place)
	}
	return m.opt.paint(faint, keys)
}

func (m *Model) helpLines() []string {
	keys := [][2]string{
		{"up down pgup pgdn home end", "move"},
		{"enter, esc", "a host's nodes and connections, and back"},
		{"tab", "move among nodes, or among hosts"},
		{"s", "the next scope: host, client, user, total, key"},
		{"/", "only hosts whose names contain what follows"},
		{"h u g w", "sort by host, in use, granted, waiting"},
		{"a r", "sort by admitted/s, refused/s; the same key again reverses"},
		{"< >", "sort by the column before, after"},
		{"space", "pause, and go on"},
		{"q", "quit"},
	}
	lines := []string{m.opt.paint(bold, "Keys"), ""}
	for _, k := range keys {
		lines = append(lines, fit(k[0], 28, false, "")+k[1])
	}
	lines = append(lines, "", m.opt.paint(bold, "Bars"), "")
	legend := []struct {
		c    cell
		text string
	}{
		{cell{kind: cellUsed}, "a connection, in its node's colour (without colours: its letter)"},
		{cell{kind: cellIdle}, "a slot granted to a node, without a connection"},
		{cell{kind: cellHeld}, "a slot of a node that is gone: usable again when it is reclaimed"},
		{cell{kind: cellFree}, "a free slot"},
		{cell{kind: cellWaiting}, "a request that waits"},
	}
	for _, l := range legend {
		lines = append(lines, m.opt.run(l.c, 3)+"  "+l.text)
	}
	return append(lines, "", m.opt.paint(faint, "Any key goes back."))
}
