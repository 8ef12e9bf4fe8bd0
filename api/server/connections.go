package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// Connections provides this node's open upstream connections.
type Connections interface {
	// Connections lists the connections to a normalised host, or with "" all. Age need not be set.
	Connections(host string) []api.Connection
	// CloseConnection starts to close a connection. It returns false if none has this id.
	CloseConnection(id string) bool
}

// everyNode, as a call's node, means all nodes.
const everyNode = "*"

// connectionsMost bounds the connections of one answer, even if no limit is given.
const connectionsMost = 10_000

// connectionListing is a query for connections.
type connectionListing struct {
	host  string       // normalised; "" is any
	port  uint16       // of host; 0 is any
	key   string       // the name that they count under; "" is any
	from  netip.Prefix // what the client's address is in; zero is any
	user  string       // "" is any
	limit int
	after connectionCursor
}

// connectionCursor is the end of a page: its last connection's place in the order. The zero cursor
// precedes all.
type connectionCursor struct {
	since    int64 // unix time in nanoseconds
	node, id string
}

func cursorAt(c api.Connection) connectionCursor {
	return connectionCursor{since: c.Since.UnixNano(), node: c.Node, id: c.ID}
}

func (c connectionCursor) compare(o connectionCursor) int {
	return cmp.Or(cmp.Compare(c.since, o.since), strings.Compare(c.node, o.node), strings.Compare(c.id, o.id))
}

func (c connectionCursor) String() string { return fmt.Sprintf("%d/%s/%s", c.since, c.node, c.id) }

func parseConnectionCursor(text string) (c connectionCursor, err error) {
	if text == "" {
		return c, nil
	}
	parts := strings.SplitN(text, "/", 3)
	if c.since, err = strconv.ParseInt(parts[0], 10, 64); err != nil || len(parts) < 3 {
		return c, malformed("after is what an earlier answer gave as next, not %q", text)
	}
	c.node, c.id = parts[1], parts[2]
	return c, nil
}

func parseConnectionListing(q url.Values) (l connectionListing, err error) {
	l.key, l.user = q.Get("key"), q.Get("user")
	if q.Has("host") {
		s, err := subjectOf(limit.ScopeHost, q.Get("host"))
		if err != nil {
			return l, invalid("host: %s", err)
		}
		l.host, l.port = s.Host.Host, s.Host.Port
	}
	if q.Has("client") {
		if l.from, err = parseClients(q.Get("client")); err != nil {
			return l, err
		}
	}
	if q.Has("user") {
		if err := checkName(l.user); err != nil {
			return l, err
		}
	}
	if l.limit, err = queryNumber(q, "limit", connectionsMost, 1, connectionsMost); err != nil {
		return l, err
	}
	l.after, err = parseConnectionCursor(q.Get("after"))
	return l, err
}

// parseClients reads an address or a CIDR.
func parseClients(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(unbracketed(text)); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, invalid("client: %q is neither an address such as 10.0.0.7 nor a network such as 10.0.0.0/8", shorten(text))
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 { // as in the pattern of a limit
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// wants reports whether a connection is one of those that are asked for.
func (l *connectionListing) wants(t *limit.Table, c *api.Connection) bool {
	switch {
	case l.port != 0 && c.Port != l.port, l.user != "" && c.User != l.user:
		return false
	case l.from.IsValid():
		a, err := netip.ParseAddrPort(c.Client)
		if err != nil || !l.from.Contains(a.Addr().Unmap().WithZone("")) { // one that is kept for reuse has no client
			return false
		}
	}
	return l.key == "" || countedAs(t, *c) == l.key
}

// page sorts connections, the oldest first, and returns one page of them and the next cursor.
func (l connectionListing) page(all []api.Connection) (page []api.Connection, next string) {
	page = slices.DeleteFunc(all, func(c api.Connection) bool {
		return l.after != connectionCursor{} && cursorAt(c).compare(l.after) <= 0
	})
	slices.SortFunc(page, func(a, b api.Connection) int { return cursorAt(a).compare(cursorAt(b)) })
	if len(page) <= l.limit {
		return page, ""
	}
	page = page[:l.limit]
	return page, cursorAt(page[l.limit-1]).String()
}

// connections answers GET /v1/connections[?host=][&client=][&user=][&key=][&node=][&limit=]
// [&after=]. host, with or without a port, selects the connections to it; client those of an
// address or a network; user those of one user; key those that count under a name of GET /v1/hosts.
// Only connections that meet all of these are listed. node asks another node or, with "*", all.
func (s *Server) connections(r *http.Request, peer bool) (answer, error) {
	q, err := query(r, "host", "client", "user", "key", "node", "limit", "after")
	if err != nil {
		return answer{}, err
	}
	l, err := parseConnectionListing(q)
	if err != nil {
		return answer{}, err
	}
	node := q.Get("node")
	q.Del("node")
	var body api.ConnectionList
	switch {
	case peer || node == "" || node == s.cfg.Node:
		body.Connections, body.Next = l.page(s.localConnections(l))
	case node == everyNode:
		body = s.allConnections(r.Context(), q, l)
	default:
		body, err = s.connectionsOf(r.Context(), node, q)
	}
	return answer{body: body}, err
}

// localConnections returns this node's connections.
func (s *Server) localConnections(l connectionListing) []api.Connection {
	now := time.Now()
	table := s.deps.View.Table()
	list := []api.Connection{}
	for _, c := range s.deps.Connections.Connections(l.host) {
		if !l.wants(table, &c) {
			continue
		}
		c.Node, c.Age = s.cfg.Node, api.Duration(max(0, now.Sub(c.Since)).Round(time.Millisecond))
		list = append(list, c)
	}
	return list
}

// countedAs returns the name under which a connection counts.
func countedAs(t *limit.Table, c api.Connection) string {
	target, err := limit.ParseTarget(net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), 0)
	if err != nil {
		return c.Host
	}
	_, key := t.Match(target)
	return key.Name
}

// allConnections returns a page of all nodes' connections. Any connection on that page is also on
// its own node's page, so at most two pages are held at a time. If a node has more than a page,
// there is a next page.
func (s *Server) allConnections(ctx context.Context, q url.Values, l connectionListing) api.ConnectionList {
	var body api.ConnectionList
	page, next := l.page(s.localConnections(l))
	more := next != ""
	body.Unreachable = fanOut(s, ctx, &url.URL{Path: api.PathConnections, RawQuery: q.Encode()}, func(theirs api.ConnectionList) {
		page, next = l.page(append(page, theirs.Connections...))
		more = more || next != "" || theirs.Next != ""
	})
	if more {
		next = cursorAt(page[len(page)-1]).String()
	}
	body.Connections, body.Next = page, next
	return body
}

// connectionsOf returns another node's connections.
func (s *Server) connectionsOf(ctx context.Context, node string, q url.Values) (api.ConnectionList, error) {
	p, err := s.peerNamed(node)
	if err != nil {
		return api.ConnectionList{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PeerTimeout)
	defer cancel()
	list, err := ask[api.ConnectionList](s, ctx, p, &url.URL{Path: api.PathConnections, RawQuery: q.Encode()})
	return list, notReached(node, err)
}

func (s *Server) peerNamed(node string) (Peer, error) {
	peers := s.deps.Peers.Peers()
	i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == node })
	if i < 0 {
		return Peer{}, problemf(http.StatusNotFound, "not_found", "there is no node %q: GET %s lists the nodes", node, api.PathNodes)
	}
	return peers[i], nil
}

// notReached turns a failed call of a node into the caller's error. A problem that the node sent
// passes unchanged.
func notReached(node string, err error) error {
	var p *api.Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	return problemf(http.StatusServiceUnavailable, "node_unreachable", "node %s does not answer: %s", node, reason(err))
}

// closeConnection answers DELETE /v1/connections/{id}[?node=].
func (s *Server) closeConnection(r *http.Request, peer bool) (answer, error) {
	q, err := query(r, "node")
	if err != nil {
		return answer{}, err
	}
	id := r.PathValue("id")
	if node := q.Get("node"); !peer && node != "" && node != s.cfg.Node {
		return s.closeAt(r, node, id)
	}
	if !s.deps.Connections.CloseConnection(id) {
		return answer{}, problemf(http.StatusNotFound, "not_found", "node %s has no open connection %q", s.cfg.Node, id)
	}
	s.note(s.withAuthor(r.Context(), r, peer), "connection closed", "id", id)
	return answer{body: api.ConnectionClosed{Closed: id}}, nil
}

// closeAt makes another node close a connection.
func (s *Server) closeAt(r *http.Request, node, id string) (answer, error) {
	p, err := s.peerNamed(node)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(s.withAuthor(r.Context(), r, false), s.cfg.PeerTimeout)
	defer cancel()
	u := &url.URL{Path: api.PathConnections + "/" + id, RawPath: api.PathConnections + "/" + url.PathEscape(id)}
	rep, err := s.forward(ctx, p.RT, &http.Request{Method: http.MethodDelete, URL: u, Header: http.Header{}}, nil)
	if err == nil && rep.status != http.StatusOK {
		err = api.ParseProblem(rep.status, rep.header, rep.body)
	}
	if err != nil {
		return answer{}, notReached(node, err)
	}
	return answer{body: api.ConnectionClosed{Closed: id}}, nil
}
