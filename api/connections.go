package api

import (
	"net/http"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// ConnectionList answers GET /v1/connections.
type ConnectionList struct {
	Connections []Connection `json:"connections"` // oldest first
}

// Connection is one open upstream connection of this node.
type Connection struct {
	ID     string    `json:"id"`
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

func (s *Server) connections(r *http.Request) (answer, error) {
	q, err := query(r, "host")
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
	now := time.Now()
	list := append([]Connection{}, s.deps.Connections.Connections(host)...)
	for i := range list {
		list[i].Age = Duration(max(0, now.Sub(list[i].Since)).Round(time.Millisecond))
	}
	slices.SortStableFunc(list, func(a, b Connection) int { return a.Since.Compare(b.Since) })
	return answer{body: ConnectionList{Connections: list}}, nil
}

func (s *Server) closeConnection(r *http.Request) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	id := r.PathValue("id")
	if !s.deps.Connections.CloseConnection(id) {
		return answer{}, problemf(http.StatusNotFound, "not_found", "this node has no open connection %q", id)
	}
	s.log.Info("connection closed by the API", "id", id)
	return answer{body: ConnectionClosed{Closed: id}}, nil
}
