package top

import (
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
)

// hostScope is the scope whose use comes with the stream.
const hostScope = "host"

// scopes are those that count, in the order in which a key goes through them.
func scopes() []string { return []string{hostScope, "client", "user", "total", "key"} }

// scopeUse is the use of a scope other than host, as told last.
type scopeUse struct {
	at    time.Time
	rows  []*hostRow
	told  bool
	more  bool   // there are more names than were told
	wrong string // why it can't be told, or not all
}

// Scope is the scope whose use is wanted; "" while that of hosts is shown, which comes with the
// stream, or the screen is paused.
func (m *Model) Scope() string {
	if m.paused || m.scope == hostScope {
		return ""
	}
	return m.scope
}

// TakeUsage adds the use of a scope, as told now, or why it can't be told.
func (m *Model) TakeUsage(now time.Time, scope string, u api.Usages, err string) {
	if scope != m.scope || m.paused {
		return
	}
	if err != "" {
		m.uses.wrong = err
		return
	}
	before := make(map[string]*hostRow, len(m.uses.rows))
	for _, row := range m.uses.rows {
		before[row.Host.Host] = row
	}
	passed := now.Sub(m.uses.at)
	next := scopeUse{at: now, told: true, more: u.Next != ""}
	for _, one := range u.Usage {
		row := &hostRow{Host: api.Host{Host: one.Name, Use: one.Use, Nodes: one.Nodes, Pattern: one.Pattern}}
		if last := before[one.Name]; last != nil && passed > 0 {
			for node, use := range one.Nodes {
				row.note(node, ratesOf(last.Nodes, node, use, passed))
			}
		}
		next.rows = append(next.rows, row)
	}
	for _, missing := range u.Unreachable {
		next.wrong = "not included: node " + missing.Node + " (" + missing.Error + ")"
	}
	m.uses = next
	m.arrange()
}

// nextScope shows the scope after the present one.
func (m *Model) nextScope() {
	all := scopes()
	m.scope = all[(slices.Index(all, m.scope)+1)%len(all)]
	m.uses, m.hosts, m.focus = scopeUse{}, list{}, hostPane
	m.arrange()
}

// rows are what counts in the scope that is shown.
func (m *Model) rows() []*hostRow {
	if m.scope == hostScope {
		return m.picture.hosts
	}
	return m.uses.rows
}

// emptyScope says why there are no rows.
func (m *Model) emptyScope() string {
	switch {
	case m.scope != hostScope && m.uses.wrong != "":
		return Clean(m.uses.wrong)
	case m.scope != hostScope && !m.uses.told:
		return "asking for the use of scope " + m.scope
	case m.scope != hostScope && m.uses.more:
		return "no " + m.scope + " of those with the most in use passes the filter"
	case m.filter != "" || m.opt.Prefix != "":
		return "no " + m.scope + " passes the filter"
	case m.scope == hostScope:
		return "no host is in use"
	}
	return "no limit of scope " + m.scope + " counts anything"
}

// nameOf is how a row is called. Scope total has one, without a name.
func nameOf(h *hostRow) string {
	if h.Host.Host == "" {
		return "all requests"
	}
	return Clean(h.Host.Host)
}

// rateColumns are the columns of the rates that a shown row has, and of what limits in mode report
// would have refused, each with what it shows.
func (m *Model) rateColumns() (columns []column, cells []func(api.Use) styled) {
	for _, r := range []struct {
		title string
		of    func(api.Use) *api.RateUse
		say   func(float64) string
	}{
		{"REQ/S", func(u api.Use) *api.RateUse { return u.Requests }, perSecond},
		{"UP/S", func(u api.Use) *api.RateUse {
			if u.Bandwidth == nil {
				return nil
			}
			return u.Bandwidth.Upload
		}, bytesPerSecond},
		{"DOWN/S", func(u api.Use) *api.RateUse {
			if u.Bandwidth == nil {
				return nil
			}
			return u.Bandwidth.Download
		}, bytesPerSecond},
	} {
		if !slices.ContainsFunc(m.shown, func(h *hostRow) bool { return r.of(h.Use) != nil }) {
			continue
		}
		columns = append(columns, column{title: r.title, width: 13, right: true, rank: 4})
		cells = append(cells, func(u api.Use) styled {
			use := r.of(u)
			if use == nil {
				return styled{text: "-", look: faint}
			}
			return styled{text: r.say(use.Now) + "/" + r.say(use.Rate), look: when(use.Waiting > 0, warn)}
		})
	}
	if slices.ContainsFunc(m.shown, func(h *hostRow) bool { return h.WouldReject > 0 }) {
		columns = append(columns, column{title: "WOULD REF", width: 9, right: true, rank: 4})
		cells = append(cells, func(u api.Use) styled {
			return styled{text: count(int64(u.WouldReject)), look: when(u.WouldReject > 0, warn)}
		})
	}
	return columns, cells
}

func bytesPerSecond(n float64) string { return count(int64(n)) }

// scopeTitle is the title of the column of names.
func (m *Model) scopeTitle() string { return strings.ToUpper(m.scope) }
