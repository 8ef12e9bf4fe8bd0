package api

import "time"

// Event is an occurrence that an operator may want to know of later. GET /v1/events sends each as a
// server-sent event named after its Type, which also determines the fields beside the first five.
type Event struct {
	// Time is from the clock of the node that recorded the event.
	Time time.Time `json:"time"`
	// Type is "leader" (who leads), "member" (a node joined, died or left), "limit" (a limit
	// changed), "reclaim" (the slots of an ended session came back), "fence" (a node stopped using
	// its slots) or "drain" (a node refuses new work, or accepts it again).
	Type string `json:"type"`
	// Node is the subject; for a limit, the node that took the write.
	Node string `json:"node"`
	// SeenBy is the node that recorded the event.
	SeenBy string `json:"seen_by"`
	Text   string `json:"text"` // a sentence

	Term   uint64 `json:"term,omitempty"`   // leader
	Role   string `json:"role,omitempty"`   // member
	Health string `json:"health,omitempty"` // member: as in GET /v1/nodes

	Session uint64   `json:"session,omitempty"` // reclaim
	Why     string   `json:"why,omitempty"`     // reclaim: "expired", "left" or "taken over"
	Slots   int64    `json:"slots,omitempty"`   // reclaim
	Silent  Duration `json:"silent,omitempty"`  // reclaim: time since the node was last heard
	Severed int      `json:"severed,omitempty"` // fence: connections

	Change *Change `json:"change,omitempty"` // limit
	Index  uint64  `json:"index,omitempty"`  // limit: the write's log index
	By     *Author `json:"by,omitempty"`     // limit
}

// Author is who changed a limit.
type Author struct {
	Source string `json:"source"`           // "api", or "config" for a reload
	Node   string `json:"node"`             // the node that took the call, or reloaded
	Client string `json:"client,omitempty"` // the caller's address and port; "" for a signal or the start
	// Auth is how the caller authenticated: "token", the one in api.token_file, or "none", if the
	// API asks for none.
	Auth string `json:"auth,omitempty"`
}

// StreamQuiet is the interval of the comments that show that an event stream lives. They are sent
// in any case, so a longer silence means that the node or the way to it is gone.
const StreamQuiet = 15 * time.Second

// UseFrame is the data of the server-sent event "use": the changes since the last one.
type UseFrame struct {
	Time time.Time `json:"time"`
	// Full says that Hosts lists all hosts. Otherwise it lists those that have changed, and Gone
	// those that no longer exist.
	Full  bool     `json:"full"`
	Hosts []Host   `json:"hosts"`
	Gone  []string `json:"gone,omitempty"`
	// More counts the hosts with the least use, which are left out if there are too many.
	More int `json:"more,omitempty"`
	// Limits is the index of the limits in force on this node. When it changes, read the limits
	// again.
	Limits      uint64        `json:"limits_index"`
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}
