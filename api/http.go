package api

import "strconv"

// The paths of the API. What a noun has many of stands below its path, percent-encoded, as in
// PathLimits + "/host/example.com".
const (
	PathHealthz      = "/healthz"
	PathReadyz       = "/readyz"
	PathMetrics      = "/metrics"
	PathOpenAPI      = "/v1/openapi.json"
	PathStatus       = "/v1/status"
	PathNodes        = "/v1/nodes"
	PathLimits       = "/v1/limits"
	PathHosts        = "/v1/hosts"
	PathUsage        = "/v1/usage"
	PathExplain      = "/v1/explain"
	PathConnections  = "/v1/connections"
	PathEvents       = "/v1/events"
	PathSnapshot     = "/v1/snapshot"
	PathDrain        = "/v1/drain"
	PathLeave        = "/v1/leave"
	PathReload       = "/v1/reload"
	PathRaftPeers    = "/v1/raft/peers"
	PathRaftTransfer = "/v1/raft/transfer"
	PathConfig       = "/v1/config"
	PathLogs         = "/v1/logs"
	PathSystem       = "/v1/system"
)

// The media types of what is not plain JSON.
const (
	MediaProblem  = "application/problem+json" // a [Problem]
	MediaEvents   = "text/event-stream"
	MediaSnapshot = "application/octet-stream"
)

// HeaderIndex carries the log index of a write.
const HeaderIndex = "Weir-Index"

// ETag returns the entity tag of something that was last changed at a log index.
func ETag(index uint64) string { return `"` + strconv.FormatUint(index, 10) + `"` }
