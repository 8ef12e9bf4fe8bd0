package api

// Started answers POST /v1/drain and POST /v1/leave, with 202: they have begun. GET /v1/status
// shows their progress; a node that has left says so for a moment, then stops answering. It also
// answers DELETE /v1/drain, with 200, when draining has ended.
type Started struct {
	Node     string `json:"node"`
	Draining bool   `json:"draining"`
	Leaving  bool   `json:"leaving"`
	// Connections counts the connections still open.
	Connections int `json:"connections"`
}

// Reloaded answers POST /v1/reload.
type Reloaded struct {
	// Applied and NeedRestart name the settings that differ from the running ones, such as
	// "proxy.listen".
	Applied     []string `json:"applied"`
	NeedRestart []string `json:"need_restart"`
}
