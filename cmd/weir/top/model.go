package top

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weirproxy/weir/api"
)

// Options are what a [Model] is made with. The zero value of each field is its plainest.
type Options struct {
	Addr     string        // the node that is asked
	Interval time.Duration // between two pictures, for the header
	Colour   bool          // colours may be used
	Unicode  bool          // other characters than ASCII may be used
	HostList bool          // no nodes, only hosts
	Host     string        // begin with this host
	Prefix   string        // only hosts that begin with it
	Sort     string        // a name of [Sorts]; "" is in_use
	Limit    int           // at most so many hosts; 0: all
}

// Sorts are the names of what hosts can be sorted by.
func Sorts() []string {
	var names []string
	for _, o := range orders() {
		names = append(names, o.name)
	}
	return names
}

// mostFilter is how long a filter may be, in characters.
const mostFilter = 100

// pane is a part of the screen that keys move in.
type pane int

const (
	hostPane pane = iota
	nodePane
)

// Model is the screen's state. It is not safe for concurrent use.
type Model struct {
	opt           Options
	width, height int
	cluster       cluster
	picture       *picture
	shown         []*hostRow // the scope's rows, filtered and in order
	scope         string
	uses          scopeUse // of a scope other than host

	sort    int // index into orders
	reverse bool
	filter  string
	typing  bool // keys go into the filter
	paused  bool
	help    bool
	focus   pane

	hosts list
	nodes list
	conns list

	host        string // the host whose details are shown; "": the list
	connections []api.Connection
	connsErr    string // why there are none, or not all
	asked       bool   // connections have been told
	moreConns   bool   // there are more than were told

	lost    string // why the node can't be followed; "": it is
	retryAt time.Time
}

// New makes a model; the terminal is 80×24 until [Model.Resize] says otherwise.
func New(o Options) *Model {
	m := &Model{opt: o, width: 80, height: 24, cluster: newCluster(), host: o.Host, scope: hostScope}
	for i, by := range orders() {
		if by.name == o.Sort || o.Sort == "" && by.name == "in_use" {
			m.sort = i
		}
	}
	return m
}

// Take adds what the node has told. The first use of hosts is shown at once; what comes later waits
// for [Model.Refresh].
func (m *Model) Take(now time.Time, n api.Notice) {
	m.lost = ""
	if m.cluster.take(now, n) && m.picture == nil {
		m.Refresh()
	}
}

// Lost notes that the node can't be followed, why, and when it will be tried again. What was told
// last stays on the screen.
func (m *Model) Lost(why string, retryAt time.Time) { m.lost, m.retryAt = why, retryAt }

// Refresh shows what has been told since the last time, unless the screen is paused.
func (m *Model) Refresh() {
	if m.paused || m.cluster.use.Time.IsZero() || m.picture != nil && m.picture.at.Equal(m.cluster.use.Time) {
		return
	}
	m.picture = m.cluster.picture(m.picture)
	m.arrange()
}

// Rated reports whether there is something to show, with rates.
func (m *Model) Rated() bool { return m.picture != nil && m.picture.rated }

// Host is the host whose details are shown, and whose connections are wanted; "" while there is
// none.
func (m *Model) Host() string {
	if m.paused || m.scope != hostScope {
		return ""
	}
	return m.host
}

// TakeConnections adds the connections of a host, as told now, or why they can't be told.
func (m *Model) TakeConnections(host string, l api.ConnectionList, err string) {
	if host != m.host || m.paused {
		return
	}
	m.asked, m.connsErr = true, err
	if err != "" {
		return
	}
	m.connections, m.moreConns = l.Connections, l.Next != ""
	for _, u := range l.Unreachable {
		m.connsErr = "not included: node " + u.Node + " (" + u.Error + ")"
	}
	m.conns.keep(len(m.connections), -1)
}

// Resize sets the terminal's size, in cells.
func (m *Model) Resize(width, height int) { m.width, m.height = max(0, width), max(0, height) }

// arrange sorts and filters anew, and keeps the cursor on its host.
func (m *Model) arrange() {
	if m.picture == nil {
		return
	}
	selected := ""
	if m.hosts.moved && m.hosts.cursor < len(m.shown) {
		selected = m.shown[m.hosts.cursor].Host.Host
	}
	want := strings.ToLower(m.filter)
	m.shown = arrange(m.rows(), orders()[m.sort], m.reverse, func(host string) bool {
		return strings.HasPrefix(host, m.opt.Prefix) && strings.Contains(strings.ToLower(host), want)
	})
	if m.opt.Limit > 0 && len(m.shown) > m.opt.Limit {
		m.shown = m.shown[:m.opt.Limit]
	}
	at := slices.IndexFunc(m.shown, func(h *hostRow) bool { return h.Host.Host == selected })
	m.hosts.keep(len(m.shown), at)
	m.nodes.keep(len(m.picture.nodes), -1)
}

// Key acts on a key, by its name ("up", "enter", "space") or its character. It reports whether to
// quit.
func (m *Model) Key(key string) (quit bool) {
	switch {
	case key == "ctrl+c":
		return true
	case m.typing:
		m.typed(key)
	case m.help:
		m.help = false
	case key == "q":
		return true
	case key == "?":
		m.help = true
	case key == "space" || key == "p":
		if m.paused = !m.paused; !m.paused {
			m.Refresh()
		}
	case key == "esc" || key == "backspace" || key == "left":
		m.back()
	case m.host != "":
		m.conns.move(key, m.connRows())
	default:
		m.listKey(key)
	}
	return false
}

// listKey acts on the keys of the list of hosts, and of nodes.
func (m *Model) listKey(key string) {
	switch key {
	case "/":
		m.typing = true
	case "s":
		if !m.opt.HostList {
			m.nextScope()
		}
	case "tab":
		if !m.opt.HostList {
			m.focus = 1 - m.focus
		}
	case "enter", "right":
		if m.focus == hostPane && m.hosts.cursor < len(m.shown) {
			m.enter(m.shown[m.hosts.cursor].Host.Host)
		}
	case "<", ",", ">", ".":
		step := 1
		if key == "<" || key == "," {
			step = -1
		}
		m.sortBy((m.sort + step + len(orders())) % len(orders()))
	default:
		if i := slices.IndexFunc(orders(), func(o order) bool { return o.key == key }); i >= 0 {
			m.sortBy(i)
			return
		}
		if m.focus == nodePane {
			m.nodes.move(key, m.nodeRows())
			return
		}
		m.hosts.move(key, m.hostRows())
	}
}

// sortBy sorts by the order given, or, where it is the one that holds, the other way round. The
// cursor goes to the top.
func (m *Model) sortBy(i int) {
	m.reverse = m.sort == i && !m.reverse
	m.sort = i
	m.hosts = list{}
	m.arrange()
}

func (m *Model) enter(host string) {
	m.host, m.connections, m.connsErr, m.asked, m.conns = host, nil, "", false, list{}
}

// back leaves the details, then the filter.
func (m *Model) back() {
	switch {
	case m.host != "":
		m.host = ""
	case m.filter != "":
		m.filter = ""
		m.arrange()
	}
}

// Type adds text to the filter while it is typed, as a paste does.
func (m *Model) Type(text string) {
	if !m.typing {
		return
	}
	for _, r := range Clean(text) {
		if utf8.RuneCountInString(m.filter) < mostFilter {
			m.filter += string(r)
		}
	}
	m.hosts = list{}
	m.arrange()
}

// typed acts on a key while the filter is typed.
func (m *Model) typed(key string) {
	switch key {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
		m.arrange()
	case "backspace":
		if m.filter == "" {
			m.typing = false
			return
		}
		_, size := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-size]
		m.arrange()
	case "ctrl+u":
		m.filter = ""
		m.arrange()
	case "up", "down", "pgup", "pgdown", "home", "end":
		m.hosts.move(key, m.hostRows())
	default:
		if utf8.RuneCountInString(key) == 1 {
			m.Type(key)
		}
	}
}

// list is a cursor in a list longer than its place on the screen.
type list struct {
	n      int
	cursor int
	top    int  // the first that is on the screen
	moved  bool // by a key: then the cursor stays with its row
}

// keep fits the list to n rows, with the cursor at the one given, or with -1 where it was.
func (l *list) keep(n, at int) {
	l.n = n
	if at >= 0 {
		l.cursor = at
	}
	l.cursor = max(0, min(l.cursor, n-1))
}

// move acts on a key; page is how many rows the screen shows.
func (l *list) move(key string, page int) {
	page = max(1, page)
	switch key {
	case "up", "k":
		l.cursor--
	case "down", "j":
		l.cursor++
	case "pgup", "ctrl+b":
		l.cursor -= page
	case "pgdown", "ctrl+f":
		l.cursor += page
	case "home":
		l.cursor = 0
	case "end", "G":
		l.cursor = l.n - 1
	default:
		return
	}
	l.cursor = max(0, min(l.cursor, l.n-1))
	l.moved = l.cursor > 0
}

// window is the part of the list that fits on so many rows, with the cursor in it.
func (l *list) window(rows int) (from, to int) {
	rows = max(0, rows)
	l.top = max(0, min(l.top, l.n-rows))
	if l.cursor < l.top {
		l.top = l.cursor
	}
	if rows > 0 && l.cursor >= l.top+rows {
		l.top = l.cursor - rows + 1
	}
	return l.top, min(l.n, l.top+rows)
}
