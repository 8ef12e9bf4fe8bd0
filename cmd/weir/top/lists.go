package top

import (
	"cmp"
	"slices"
	"time"
)

// nodeRows is how many nodes are on the screen: a third of it, or half of it while keys move in it.
func (m *Model) nodeRows() int {
	if m.picture == nil || m.opt.HostList {
		return 0
	}
	room := m.height / 3
	if m.focus == nodePane {
		room = m.height / 2
	}
	return max(1, min(len(m.picture.nodes), room-2))
}

// hostRows is how many hosts are on the screen.
func (m *Model) hostRows() int {
	rows := m.height - 2 - len(m.news(time.Time{})) - 1 - 1 // the head, the foot, the table's header
	if !m.opt.HostList {
		rows -= m.nodeRows() + 2
	}
	return max(1, rows)
}

func nodeColumns() []column {
	return []column{
		{title: " ", width: 1, rank: 0},
		{title: "NODE", least: 10, part: 1, rank: 0},
		{title: "ROLE", width: 6, rank: 4},
		{title: "LEADER", width: 6, rank: 3},
		{title: "HEALTH", width: 8, rank: 1},
		{title: "SESSION", width: 7, rank: 2},
		{title: "RECLAIM", width: 7, right: true, rank: 2},
		{title: "IN USE", width: 7, right: true, rank: 2},
		{title: "IDLE", width: 6, right: true, rank: 9},
		{title: "GRANTED", width: 7, right: true, rank: 5},
		{title: "WAIT", width: 6, right: true, rank: 5},
		{title: "ADM/S", width: 6, right: true, rank: 7},
		{title: "REF/S", width: 6, right: true, rank: 6},
		{title: "VERSION", least: 12, part: 1, rank: 8},
	}
}

// nodeTable is the nodes' part of the screen.
func (m *Model) nodeTable(now time.Time) []string {
	columns := nodeColumns()
	widths := layout(columns, m.width)
	lines := []string{m.header(columns, widths, false)}
	from, to := m.nodes.window(m.nodeRows())
	for i, n := range m.picture.nodes[from:to] {
		name := styled{text: Clean(n.Name)}
		if m.focus == nodePane && from+i == m.nodes.cursor {
			name.look = inverse
		}
		leader := ""
		if n.Leader {
			leader = "leader"
		}
		numbers := [...]string{count(n.inUse), count(n.idle), count(n.granted), count(n.waiting), perSecond(n.admitted), perSecond(n.refused)}
		if !n.open {
			numbers = [...]string{"-", "-", "-", "-", "-", "-"}
		}
		lines = append(lines, m.row(columns, widths, []styled{
			{text: m.opt.key(m.cluster.numberOf(n.Name)), raw: true}, name, {text: cmp.Or(n.Role, "-")}, {text: leader, look: good},
			healthCell(n), {text: n.Session, look: sessionLook(n.Session)},
			{text: m.reclaim(now, n), look: warn},
			{text: numbers[0]}, {text: numbers[1]}, {text: numbers[2]}, {text: numbers[3], look: when(n.waiting > 0, warn)},
			{text: numbers[4]}, {text: numbers[5], look: when(n.refused > 0, bad)}, {text: Clean(n.Version)},
		}))
	}
	return lines
}

// reclaim is the time until a node's slots come back.
func (m *Model) reclaim(now time.Time, n nodeRow) string {
	if n.ReclaimIn == nil {
		return ""
	}
	left := time.Duration(*n.ReclaimIn)
	if !m.paused && m.lost == "" {
		left -= max(0, now.Sub(m.cluster.nodesAt))
	}
	return age(left)
}

func when(v bool, l look) look {
	if v {
		return l
	}
	return plain
}

// healthCell is a node's health; of one that is well, also whether it is draining.
func healthCell(n nodeRow) styled {
	if n.Draining && n.Health == "alive" {
		return styled{text: "draining", look: warn}
	}
	return styled{text: n.Health, look: healthLook(n.Health)}
}

func healthLook(health string) look {
	switch health {
	case "alive":
		return good
	case "dead":
		return bad
	case "suspect":
		return warn
	}
	return faint
}

func sessionLook(session string) look {
	switch session {
	case "live":
		return good
	case "none":
		return faint
	}
	return bad
}

func hostColumns() []column {
	return []column{
		{title: "HOST", least: 20, part: 2, rank: 0, order: "host"},
		{title: "LIMIT", width: 6, right: true, rank: 2},
		{title: "IN USE", width: 7, right: true, rank: 1, order: "in_use"},
		{title: "IDLE", width: 6, right: true, rank: 8},
		{title: "GRANTED", width: 8, right: true, rank: 7, order: "granted"},
		{title: "WAITING", width: 8, right: true, rank: 3, order: "waiting"},
		{title: "USE", least: 10, part: 3, rank: 4},
		{title: "ADM/S", width: 6, right: true, rank: 6, order: "admitted_total"},
		{title: "REF/S", width: 6, right: true, rank: 5, order: "rejected_total"},
	}
}

// hostTable is the hosts' part of the screen.
func (m *Model) hostTable() []string {
	columns := hostColumns()
	columns[0].title = m.scopeTitle()
	more, cells := m.rateColumns()
	columns = append(columns, more...)
	widths := layout(columns, m.width)
	lines := []string{m.header(columns, widths, true)}
	if len(m.shown) == 0 {
		return append(lines, m.opt.paint(faint, m.emptyScope()))
	}
	full := m.fullBar()
	from, to := m.hosts.window(m.hostRows())
	for i, h := range m.shown[from:to] {
		name := styled{text: nameOf(h)}
		if m.focus == hostPane && from+i == m.hosts.cursor {
			name.look = inverse
		}
		row := []styled{
			name, limitCell(h.Limit), {text: count(h.InUse), look: when(atLimit(h), warn)}, {text: count(h.Idle)}, {text: count(h.Granted)},
			{text: count(h.Waiting), look: when(h.Waiting > 0, warn)},
			{text: m.opt.drawn(bar(widths[6], h.Limit, m.shares(h), h.Waiting, full)), raw: true},
			{text: perSecond(h.admitted)}, {text: perSecond(h.refused), look: when(h.refused > 0, bad)},
		}
		for _, cell := range cells {
			row = append(row, cell(h.Use))
		}
		lines = append(lines, m.row(columns, widths, row))
	}
	return lines
}

func atLimit(h *hostRow) bool { return h.Limit != nil && h.InUse >= *h.Limit && h.InUse > 0 }

func limitCell(limit *int64) styled {
	if limit == nil {
		return styled{text: "-", look: faint}
	}
	return styled{text: count(*limit), look: when(*limit == 0, bad)}
}

// fullBar is what a full bar of a host without a limit stands for: the most that one of them has in
// use.
func (m *Model) fullBar() int64 {
	var most int64
	for _, h := range m.shown {
		if h.Limit == nil {
			most = max(most, h.InUse)
		}
	}
	return most
}

// shares are the nodes' parts of a host, in the order of their numbers.
func (m *Model) shares(h *hostRow) []share {
	var out []share
	for node, use := range h.Nodes {
		out = append(out, share{node: int64(m.cluster.numberOf(node)), used: max(0, use.InUse), idle: max(0, use.Granted-use.InUse)})
	}
	for node, slots := range h.held {
		out = append(out, share{node: int64(m.cluster.numberOf(node)), held: slots})
	}
	slices.SortFunc(out, func(a, b share) int { return int(a.node - b.node) })
	return out
}
