package api

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/fsm"
)

// Hosts answers GET /v1/hosts[?prefix=&sort=&limit=&after=&local=true].
//
// prefix selects the hosts that begin with it. sort is a field's name: "host" (the default,
// ascending), or "in_use", "granted", "waiting", "admitted_total", "rejected_total" (the largest
// first). limit is the size of a page, 1 to 10000, by default 1000. after continues after an
// earlier answer's Next, or after a host. local asks this node alone.
type Hosts struct {
	Hosts []Host `json:"hosts"`
	// Next is the value of after for the next page, if there is one.
	Next string `json:"next,omitempty"`
	// Unreachable lists the nodes whose use is missing in the sums.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Unreachable is a node that didn't answer, and why.
type Unreachable struct {
	Node  string `json:"node"`
	Error string `json:"error"`
}

// Host is the use that counts under one name: a host, a host with a port if a limit names it, or
// the pattern of a shared limit. The numbers beside Nodes are sums over Nodes.
type Host struct {
	Host string `json:"host"`
	Use
	Nodes map[string]Use `json:"nodes"`
	// Pattern is the pattern of the limit that governs the host; "" without one.
	Pattern string `json:"pattern,omitempty"`
	// Unreachable is set in the answer for one host; a list has its own.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Use is the use of one host, on one node or in all.
type Use struct {
	Limit    *int64 `json:"limit"` // null: no cap
	Granted  int64  `json:"granted"`
	InUse    int64  `json:"in_use"`
	Idle     int64  `json:"idle"` // of InUse: upstream connections kept for reuse, without a request
	Waiting  int64  `json:"waiting"`
	Admitted uint64 `json:"admitted_total"`
	Rejected uint64 `json:"rejected_total"`
}

func (u *Use) add(o Use) {
	u.Granted += o.Granted
	u.InUse += o.InUse
	u.Idle += o.Idle
	u.Waiting += o.Waiting
	u.Admitted += o.Admitted
	u.Rejected += o.Rejected
}

// HostUse is this node's use of one key.
type HostUse struct {
	Key      fsm.Key
	Granted  int64
	InUse    int64
	Idle     int64
	Waiting  int64
	Admitted uint64
	Rejected uint64
}

// UseSource provides this node's use of hosts.
type UseSource interface {
	// HostUses lists every host that the node has numbers of, in any order.
	HostUses() []HostUse
	// HostUse returns the use of one key.
	HostUse(key fsm.Key) (HostUse, bool)
}

const (
	hostsDefault = 1000
	hostsMost    = 10_000
)

// listing is a query for hosts.
type listing struct {
	prefix string
	order  string
	limit  int // 0: all
	after  cursor
	local  bool
}

// cursor is the end of a page: the last host and, unless hosts are sorted by name, the number that
// it was sorted by.
type cursor struct {
	set   bool
	count uint64
	host  string
	// now: use the host's present number, because the client sent only a host, as from a list that
	// it was shown.
	now bool
}

// hostCounts returns the numbers that hosts can be sorted by.
func hostCounts() map[string]func(Use) uint64 {
	return map[string]func(Use) uint64{
		"granted":        func(u Use) uint64 { return uint64(max(0, u.Granted)) },
		"in_use":         func(u Use) uint64 { return uint64(max(0, u.InUse)) },
		"waiting":        func(u Use) uint64 { return uint64(max(0, u.Waiting)) },
		"admitted_total": func(u Use) uint64 { return u.Admitted },
		"rejected_total": func(u Use) uint64 { return u.Rejected },
	}
}

func parseListing(r *http.Request) (listing, error) {
	l := listing{order: "host"}
	q, err := query(r, "prefix", "sort", "limit", "after", "local")
	if err != nil {
		return l, err
	}
	if l.local, err = queryBool(q, "local"); err != nil {
		return l, err
	}
	l.prefix = strings.ToLower(q.Get("prefix"))
	if q.Has("sort") {
		l.order = q.Get("sort")
	}
	if _, ok := hostCounts()[l.order]; !ok && l.order != "host" {
		return l, malformed("sort is host, in_use, granted, waiting, admitted_total or rejected_total, not %q", l.order)
	}
	if !l.local {
		l.limit = hostsDefault
	}
	if q.Has("limit") {
		l.limit, err = strconv.Atoi(q.Get("limit"))
		if err != nil || l.limit < 1 || l.limit > hostsMost && !l.local {
			return l, malformed("limit is a number from 1 to %d, not %q", hostsMost, q.Get("limit"))
		}
	}
	l.after, err = parseCursor(q, l.order)
	return l, err
}

func parseCursor(q url.Values, order string) (cursor, error) {
	after := q.Get("after")
	if after == "" {
		return cursor{}, nil
	}
	if order == "host" {
		return cursor{set: true, host: strings.ToLower(after)}, nil
	}
	count, host, ok := strings.Cut(after, "/")
	if n, err := strconv.ParseUint(count, 10, 64); ok && err == nil {
		return cursor{set: true, count: n, host: host}, nil
	}
	p, err := fsm.ParsePattern(after)
	if err != nil {
		return cursor{}, malformed("after is a host, or what an answer with the same sort gave as next, not %q", after)
	}
	return cursor{set: true, host: p.String(), now: true}, nil
}

// page sorts hosts, and returns one page of them and the next cursor.
func (l listing) page(hosts []Host) (page []Host, next string) {
	count, byCount := hostCounts()[l.order]
	compare := func(n uint64, host string, b Host) int {
		if byCount {
			if c := cmp.Compare(count(b.Use), n); c != 0 {
				return c
			}
		}
		return strings.Compare(host, b.Host)
	}
	of := func(h Host) uint64 {
		if byCount {
			return count(h.Use)
		}
		return 0
	}
	if i := slices.IndexFunc(hosts, func(h Host) bool { return h.Host == l.after.host }); l.after.now && i >= 0 {
		l.after.count = of(hosts[i]) // one that isn't listed has no use: 0
	}
	page = slices.DeleteFunc(hosts, func(h Host) bool {
		return !strings.HasPrefix(h.Host, l.prefix) || l.after.set && compare(l.after.count, l.after.host, h) >= 0
	})
	slices.SortFunc(page, func(a, b Host) int { return compare(of(a), a.Host, b) })
	if l.limit == 0 || len(page) <= l.limit {
		return page, ""
	}
	page = page[:l.limit]
	last := page[l.limit-1]
	if byCount {
		return page, fmt.Sprintf("%d/%s", of(last), last.Host)
	}
	return page, last.Host
}

// hosts answers GET /v1/hosts. A question from a peer is not passed on.
func (s *Server) hosts(r *http.Request, peer bool) (answer, error) {
	l, err := parseListing(r)
	if err != nil {
		return answer{}, err
	}
	l.local = l.local || peer
	var body Hosts
	hosts := s.localHosts()
	if !l.local {
		hosts, body.Unreachable = s.clusterHosts(r.Context(), l, hosts)
	}
	body.Hosts, body.Next = l.page(hosts)
	if body.Hosts == nil {
		body.Hosts = []Host{}
	}
	return answer{body: body}, nil
}

// host answers GET /v1/hosts/{host}[?local=true]. An unused host is shown with the limit that would
// apply.
func (s *Server) host(r *http.Request, peer bool) (answer, error) {
	q, err := query(r, "local")
	if err != nil {
		return answer{}, err
	}
	local, err := queryBool(q, "local")
	if err != nil {
		return answer{}, err
	}
	t := s.deps.View.Table()
	u, err := s.hostUse(t, r.PathValue("host"))
	if err != nil {
		return answer{}, err
	}
	h := s.hostEntry(t, u)
	if !local && !peer {
		h = s.clusterHost(r.Context(), h)
	}
	return answer{body: h}, nil
}

// hostUse returns this node's use under a name: a host, a host with a port, or the pattern of a
// shared limit (or of one that was shared, and is still in use). Without any use it is zero.
func (s *Server) hostUse(t *fsm.Table, name string) (HostUse, error) {
	target, err := fsm.ParseHost(name)
	if err != nil {
		var perr error
		if target, perr = fsm.ParseTarget(name, 0); perr != nil {
			return s.patternUse(t, name, err)
		}
	}
	_, key := t.Match(target)
	u, _ := s.deps.Uses.HostUse(key)
	u.Key = key
	return u, nil
}

func (s *Server) patternUse(t *fsm.Table, name string, notHost error) (HostUse, error) {
	p, err := fsm.ParsePattern(name)
	if err != nil {
		return HostUse{}, notHost
	}
	key := fsm.HostConnections(p.String())
	u, used := s.deps.Uses.HostUse(key)
	if l, ok := t.Get(p); !used && !(ok && l.Shared) {
		return HostUse{}, notHost
	}
	u.Key = key
	return u, nil
}

// localHosts returns this node's use of every host.
func (s *Server) localHosts() []Host {
	t := s.deps.View.Table()
	uses := s.deps.Uses.HostUses()
	hosts := make([]Host, 0, len(uses))
	for _, u := range uses {
		hosts = append(hosts, s.hostEntry(t, u))
	}
	return hosts
}

func (s *Server) hostEntry(t *fsm.Table, u HostUse) Host {
	use := Use{Granted: u.Granted, InUse: u.InUse, Idle: u.Idle, Waiting: u.Waiting, Admitted: u.Admitted, Rejected: u.Rejected}
	h := Host{Host: u.Key.Name}
	l := t.Governing(u.Key)
	if l != nil {
		h.Pattern = l.Pattern.String()
	}
	if l.Capped() {
		n := l.Connections
		use.Limit = &n
	}
	h.Use, h.Nodes = use, map[string]Use{s.cfg.Node: use}
	return h
}
