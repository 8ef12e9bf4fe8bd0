package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// ConnectionList answers GET /v1/connections.
type ConnectionList struct {
	Connections []Connection `json:"connections"` // oldest first
	// Unreachable are nodes that were asked and didn't answer.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Connection is one open upstream connection.
type Connection struct {
	ID     string    `json:"id"`     // unique on its node
	Node   string    `json:"node"`   // whose it is
	Client string    `json:"client"` // the worker's address; "" for one that is kept for reuse
	Host   string    `json:"host"`   // normalised
	Port   uint16    `json:"port"`
	Kind   string    `json:"kind"` // "connect", "http", "upgrade" or "idle"
	Since  time.Time `json:"since"`
	Age    Duration  `json:"age"`
	// BytesOut went to the upstream, BytesIn came from it.
	BytesOut uint64 `json:"bytes_out"`
	BytesIn  uint64 `json:"bytes_in"`
	Limited  bool   `json:"limited"` // it uses a slot
}

// ConnectionClosed answers DELETE /v1/connections/{id}.
type ConnectionClosed struct {
	Closed string `json:"closed"`
}

// Connections are this node's open upstream connections.
type Connections interface {
	// Connections lists those to a normalised host, or with "" all. Age need not be set.
	Connections(host string) []Connection
	// CloseConnection starts to close one; false when there is none with this id.
	CloseConnection(id string) bool
}

// everyNode is, as a call's node, all there are.
const everyNode = "*"

// connections answers GET /v1/connections[?host=][&key=][&node=]. host keeps those to one host; key, which is a name that
// GET /v1/hosts lists, those that are counted under it. node asks another node, or with "*" all.
func (s *Server) connections(r *http.Request, peer bool) (answer, error) {
	q, err := query(r, "host", "key", "node")
	if err != nil {
		return answer{}, err
	}
	var host string
	if q.Has("host") {
		t, err := fsm.ParseHost(q.Get("host"))
		if err != nil {
			return answer{}, invalid("host: %s", err)
		}
		host = t.Host
	}
	var body ConnectionList
	node := q.Get("node")
	if peer || node == "" || node == s.cfg.Node || node == everyNode {
		body.Connections = s.localConnections(host, q.Get("key"))
	}
	if !peer && node != "" && node != s.cfg.Node {
		if err := s.peerConnections(r, q, &body); err != nil {
			return answer{}, err
		}
	}
	slices.SortStableFunc(body.Connections, func(a, b Connection) int { return a.Since.Compare(b.Since) })
	return answer{body: body}, nil
}

// localConnections are this node's, to a host or "", counted under a key or "".
func (s *Server) localConnections(host, key string) []Connection {
	now := time.Now()
	table := s.deps.View.Table()
	list := []Connection{}
	for _, c := range s.deps.Connections.Connections(host) {
		if key != "" && countedAs(table, c) != key {
			continue
		}
		c.Node, c.Age = s.cfg.Node, Duration(max(0, now.Sub(c.Since)).Round(time.Millisecond))
		list = append(list, c)
	}
	return list
}

// countedAs is the name under which a connection counts.
func countedAs(t *fsm.Table, c Connection) string {
	target, err := fsm.ParseTarget(net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), 0)
	if err != nil {
		return c.Host
	}
	_, key := t.Match(target)
	return key.Name
}

// peerConnections adds those of the node that q names, or of every other.
func (s *Server) peerConnections(r *http.Request, q url.Values, body *ConnectionList) error {
	node := q.Get("node")
	q.Del("node")
	u := &url.URL{Path: pathConnections, RawQuery: q.Encode()}
	if node != everyNode {
		p, err := s.peerNamed(node)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.PeerTimeout)
		defer cancel()
		*body, err = ask[ConnectionList](s, ctx, p, u)
		return notReached(node, err)
	}
	body.Unreachable = fanOut(s, r.Context(), u, func(l ConnectionList) {
		body.Connections = append(body.Connections, l.Connections...)
	})
	return nil
}

func (s *Server) peerNamed(node string) (Peer, error) {
	peers := s.deps.Peers.Peers()
	i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == node })
	if i < 0 {
		return Peer{}, problemf(http.StatusNotFound, "not_found", "there is no node %q: GET %s lists those there are", node, pathNodes)
	}
	return peers[i], nil
}

// notReached is what a caller is told of a node that could not be asked; a problem of the node's own goes through.
func notReached(node string, err error) error {
	var p *Problem
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
	s.log.Info("connection closed by the API", "id", id)
	return answer{body: ConnectionClosed{Closed: id}}, nil
}

// closeAt has another node close a connection.
func (s *Server) closeAt(r *http.Request, node, id string) (answer, error) {
	p, err := s.peerNamed(node)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.PeerTimeout)
	defer cancel()
	u := &url.URL{Path: pathConnections + "/" + id, RawPath: pathConnections + "/" + url.PathEscape(id)}
	rep, err := s.forward(ctx, p.RT, &http.Request{Method: http.MethodDelete, URL: u, Header: http.Header{}}, nil)
	if err == nil && rep.status != http.StatusOK {
		err = decodeProblem(rep.status, rep.header, rep.body)
	}
	if err != nil {
		return answer{}, notReached(node, err)
	}
	return answer{body: ConnectionClosed{Closed: id}}, nil
}
