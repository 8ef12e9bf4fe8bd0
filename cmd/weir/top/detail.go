package top

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

func useColumns() []column {
	return []column{
		{title: " ", width: 1, rank: 0},
		{title: "NODE", least: 10, part: 1, rank: 0},
		{title: "IN USE", width: 7, right: true, rank: 1},
		{title: "IDLE", width: 6, right: true, rank: 8},
		{title: "GRANTED", width: 8, right: true, rank: 2},
		{title: "WAITING", width: 8, right: true, rank: 3},
		{title: "ADMITTED", width: 9, right: true, rank: 6},
		{title: "REFUSED", width: 8, right: true, rank: 7},
		{title: "ADM/S", width: 7, right: true, rank: 5},
		{title: "REF/S", width: 7, right: true, rank: 4},
	}
}

func connColumns() []column {
	return []column{
		{title: " ", width: 1, rank: 0},
		{title: "NODE", least: 8, part: 1, rank: 1},
		{title: "CLIENT", least: 15, part: 2, rank: 0},
		{title: "TO", least: 12, part: 2, rank: 6},
		{title: "PROTOCOL", width: 8, rank: 4},
		{title: "AGE", width: 6, right: true, rank: 2},
		{title: "OUT", width: 6, right: true, rank: 3},
		{title: "IN", width: 6, right: true, rank: 3},
		{title: "ID", width: 8, right: true, rank: 5},
	}
}

// hostView is one host: its limit, its bar, its nodes and its connections.
func (m *Model) hostView() []string {
	i := slices.IndexFunc(m.rows(), func(h *hostRow) bool { return h.Host.Host == m.host })
	row := &hostRow{}
	if m.scope == hostScope {
		row.Host = m.cluster.hosts[m.host]
	}
	row.Host.Host = m.host
	if i >= 0 {
		row = m.rows()[i]
	}
	limit := "no cap"
	if row.Limit != nil {
		limit = "limit " + number(uint64(max(0, *row.Limit)))
	}
	if row.Pattern != "" && row.Pattern != m.host {
		limit += " (of " + Clean(row.Pattern) + ")"
	}
	lines := []string{
		m.opt.paint(bold, Clean(m.host)) + "  " + limit,
		m.opt.drawn(bar(m.width, row.Limit, m.shares(row), row.Waiting, row.InUse)),
	}
	lines = append(lines, m.useTable(row)...)
	if m.scope != hostScope { // connections are listed by host
		return lines
	}
	lines = append(lines, "")
	return append(lines, m.connTable(m.height-1-3-len(lines))...)
}

// useTable is a host's use by node; of many nodes, those that use it most.
func (m *Model) useTable(h *hostRow) []string {
	columns := useColumns()
	widths := layout(columns, m.width)
	lines := []string{m.header(columns, widths, false)}
	names := slices.Sorted(maps.Keys(h.Nodes))
	slices.SortStableFunc(names, func(a, b string) int { return int(h.Nodes[b].InUse - h.Nodes[a].InUse) })
	shown := names[:min(len(names), max(1, m.height/3-2))]
	slices.Sort(shown)
	for _, name := range shown {
		u, r := h.Nodes[name], h.rates[name]
		lines = append(lines, m.row(columns, widths, []styled{
			{text: m.opt.key(m.cluster.numberOf(name)), raw: true}, {text: Clean(name)}, {text: count(u.InUse)}, {text: count(u.Idle)}, {text: count(u.Granted)},
			{text: count(u.Waiting), look: when(u.Waiting > 0, warn)}, {text: number(u.Admitted)}, {text: number(u.Rejected)},
			{text: perSecond(r.admitted)}, {text: perSecond(r.refused), look: when(r.refused > 0, bad)},
		}))
	}
	if more := len(names) - len(shown); more > 0 {
		lines = append(lines, m.opt.paint(faint, fmt.Sprintf("and %d more, with less use", more)))
	}
	return lines
}

// connRows is about how many connections are on the screen.
func (m *Model) connRows() int { return max(1, m.height/2) }

// connTable is a host's connections, the oldest first.
func (m *Model) connTable(room int) []string {
	columns := connColumns()
	widths := layout(columns, m.width)
	lines := []string{m.header(columns, widths, false)}
	switch {
	case m.connsErr != "":
		lines = append(lines, m.opt.paint(warn, Clean(m.connsErr)))
	case !m.asked:
		return append(lines, m.opt.paint(faint, "asking for its connections"))
	case len(m.connections) == 0:
		return append(lines, m.opt.paint(faint, "no connection is open"))
	}
	if m.moreConns {
		lines = append(lines, m.opt.paint(faint, fmt.Sprintf("the oldest %d; there are more", len(m.connections))))
	}
	from, to := m.conns.window(max(1, room-len(lines)))
	for i, c := range m.connections[from:to] {
		client := styled{text: Clean(c.Client)}
		if c.Client == "" {
			client = styled{text: "none: kept for reuse", look: faint}
		}
		if from+i == m.conns.cursor {
			client.look = inverse
		}
		lines = append(lines, m.row(columns, widths, []styled{
			{text: m.opt.key(m.cluster.numberOf(c.Node)), raw: true}, {text: Clean(c.Node)}, client,
			{text: fmt.Sprintf("%s:%d", Clean(c.Host), c.Port)}, {text: Clean(c.Protocol)}, {text: age(time.Duration(c.Age))},
			{text: size(c.BytesOut)}, {text: size(c.BytesIn)}, {text: Clean(c.ID)},
		}))
	}
	return lines
}
