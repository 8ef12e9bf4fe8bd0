package api

import "time"

// ConnectionList answers GET /v1/connections.
type ConnectionList struct {
	Connections []Connection `json:"connections"` // oldest first
	// Next is the value of after for the next page, if there is one.
	Next string `json:"next,omitempty"`
	// Unreachable lists the nodes that were asked and did not answer.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Connection is one open upstream connection.
type Connection struct {
	ID     string `json:"id"`     // unique on its node
	Node   string `json:"node"`   // the node that has it open
	Client string `json:"client"` // the worker's address and port; "" for one that is kept for reuse
	User   string `json:"user"`   // the authenticated user; "" also if the proxy has no users
	Host   string `json:"host"`   // normalised
	Port   uint16 `json:"port"`
	// Protocol is "connect", "http", "upgrade", "socks5" or, without a client, "idle".
	Protocol string    `json:"protocol"`
	Since    time.Time `json:"since"`
	Age      Duration  `json:"age"`
	// BytesOut went to the upstream, BytesIn came from it.
	BytesOut uint64 `json:"bytes_out"`
	BytesIn  uint64 `json:"bytes_in"`
	Limited  bool   `json:"limited"` // it uses a slot
}

// ConnectionClosed answers DELETE /v1/connections/{id}.
type ConnectionClosed struct {
	Closed string `json:"closed"`
}
