package top

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Frame is the screen's text at a moment: exactly as many lines as the terminal has, none longer than it is wide.
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
	right := "every " + short(m.opt.Interval)
	if m.paused {
		right = m.opt.paint(inverse, " paused ")
	}
	lines := []string{m.ends(left, right)}
	if p := m.picture; p != nil {
		admitted, refused := "admitted", "refused"
		if m.width < 100 {
			admitted, refused = "adm", "ref"
		}
		lines = append(lines, fmt.Sprintf("%d nodes  %s hosts  in use %s  granted %s  waiting %s  "+admitted+" %s/s  "+refused+" %s/s",
			len(p.nodes), number(uint64(len(p.hosts)+m.cluster.use.More)), count(p.total.InUse), count(p.total.Granted),
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

// short is a duration as people write it.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
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
		lines = append(lines, m.opt.paint(bad, fmt.Sprintf("No answer: %s. Trying again in %s.", Clean(m.lost), short(wait))))
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
	return wrong
}

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
		{title: "HEALTH", width: 7, rank: 1},
		{title: "SESSION", width: 7, rank: 2},
		{title: "RECLAIM", width: 7, right: true, rank: 2},
		{title: "IN USE", width: 7, right: true, rank: 2},
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
		numbers := [...]string{count(n.inUse), count(n.granted), count(n.waiting), perSecond(n.admitted), perSecond(n.refused)}
		if !n.open {
			numbers = [...]string{"-", "-", "-", "-", "-"}
		}
		lines = append(lines, m.row(columns, widths, []styled{
			{text: m.opt.key(m.cluster.numberOf(n.Name)), raw: true}, name, {text: n.Role}, {text: leader, look: good},
			{text: n.Health, look: healthLook(n.Health)}, {text: n.Session, look: sessionLook(n.Session)},
			{text: m.reclaim(now, n), look: warn},
			{text: numbers[0]}, {text: numbers[1]}, {text: numbers[2], look: when(n.waiting > 0, warn)},
			{text: numbers[3]}, {text: numbers[4], look: when(n.refused > 0, bad)}, {text: Clean(n.Version)},
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
	widths := layout(columns, m.width)
	lines := []string{m.header(columns, widths, true)}
	if len(m.shown) == 0 {
		why := "no host is in use"
		if m.filter != "" || m.opt.Prefix != "" {
			why = "no host passes the filter"
		}
		return append(lines, m.opt.paint(faint, why))
	}
	full := m.fullBar()
	from, to := m.hosts.window(m.hostRows())
	for i, h := range m.shown[from:to] {
		name := styled{text: Clean(h.Host.Host)}
		if m.focus == hostPane && from+i == m.hosts.cursor {
			name.look = inverse
		}
		lines = append(lines, m.row(columns, widths, []styled{
			name, limitCell(h.Limit), {text: count(h.InUse), look: when(atLimit(h), warn)}, {text: count(h.Granted)},
			{text: count(h.Waiting), look: when(h.Waiting > 0, warn)},
			{text: m.opt.drawn(bar(widths[5], h.Limit, m.shares(h), h.Waiting, full)), raw: true},
			{text: perSecond(h.admitted)}, {text: perSecond(h.refused), look: when(h.refused > 0, bad)},
		}))
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

// fullBar is what a full bar of a host without a limit stands for: the most that one of them has in use.
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
		keys += "  tab:nodes"
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
		{"/", "only hosts whose names contain what follows"},
		{"h u g w", "sort by host, in use, granted, waiting"},
		{"a r", "sort by admitted/s, refused/s; the same key again: reversed"},
		{"< >", "sort by the column before, behind"},
		{"space", "hold the picture still"},
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
		{cell{kind: cellFree}, "a slot that nobody has"},
		{cell{kind: cellWaiting}, "a request that waits"},
	}
	for _, l := range legend {
		lines = append(lines, m.opt.run(l.c, 3)+"  "+l.text)
	}
	return append(lines, "", m.opt.paint(faint, "Any key goes back."))
}

func useColumns() []column {
	return []column{
		{title: " ", width: 1, rank: 0},
		{title: "NODE", least: 10, part: 1, rank: 0},
		{title: "IN USE", width: 7, right: true, rank: 1},
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
		{title: "KIND", width: 7, rank: 4},
		{title: "AGE", width: 6, right: true, rank: 2},
		{title: "OUT", width: 6, right: true, rank: 3},
		{title: "IN", width: 6, right: true, rank: 3},
		{title: "ID", width: 8, right: true, rank: 5},
	}
}

// hostView is one host: its limit, its bar, its nodes and its connections.
func (m *Model) hostView() []string {
	i := slices.IndexFunc(m.picture.hosts, func(h *hostRow) bool { return h.Host.Host == m.host })
	row := &hostRow{Host: m.cluster.hosts[m.host]}
	row.Host.Host = m.host
	if i >= 0 {
		row = m.picture.hosts[i]
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
			{text: m.opt.key(m.cluster.numberOf(name)), raw: true}, {text: Clean(name)}, {text: count(u.InUse)}, {text: count(u.Granted)},
			{text: count(u.Waiting), look: when(u.Waiting > 0, warn)}, {text: number(u.Admitted)}, {text: number(u.Rejected)},
			{text: perSecond(r.admitted)}, {text: perSecond(r.refused), look: when(r.refused > 0, bad)},
		}))
	}
	if more := len(names) - len(shown); more > 0 {
		lines = append(lines, m.opt.paint(faint, fmt.Sprintf("and %d nodes that use it less", more)))
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
			{text: fmt.Sprintf("%s:%d", Clean(c.Host), c.Port)}, {text: Clean(c.Kind)}, {text: age(time.Duration(c.Age))},
			{text: size(c.BytesOut)}, {text: size(c.BytesIn)}, {text: Clean(c.ID)},
		}))
	}
	return lines
}
