package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The stream's bounds.
const (
	streamWrite = 10 * time.Second // for one write: a client that takes nothing for so long has gone
	streamQuiet = 15 * time.Second // after which a comment shows that the stream lives
)

// eventTypes are what GET /v1/events sends: those of Event, and the state of the cluster, once a
// second.
func eventTypes() (noted, state []string) {
	return []string{"leader", "member", "limit", "reclaim", "fence", "drain"}, []string{"status", "nodes", "use"}
}

// eventStream answers GET /v1/events[?types=leader,limit] with server-sent events, until the client
// goes or is too slow.
//
// It begins with the events that the node remembers; with a Last-Event-ID, with those behind it.
// Then come, once a second, "status" ([Status]), "nodes" ([Nodes]) and "use" ([UseFrame], the first
// of which holds all hosts), and each [Event] as it happens.
func (s *Server) eventStream(w http.ResponseWriter, r *http.Request) error {
	types, err := parseEventTypes(r)
	if err != nil {
		return err
	}
	watch, err := s.watcher.begin()
	if err != nil {
		return err
	}
	defer s.watcher.end(watch)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would wait for more
	out := &eventWriter{w: w, rc: http.NewResponseController(w)}
	out.begin()
	if r.Method == http.MethodHead {
		return nil
	}
	quiet := time.NewTicker(streamQuiet)
	defer quiet.Stop()
	cursor := r.Header.Get("Last-Event-ID")
	for {
		entries, more := s.events.since(cursor)
		var b bytes.Buffer
		for _, e := range entries {
			cursor = s.events.cursor(e.number)
			if slices.Contains(types, e.event.Type) {
				b.Write(frame(cursor, e.event.Type, e.event))
			}
		}
		if !out.write(b.Bytes()) {
			return nil
		}
		select {
		case <-more:
		case frames, ok := <-watch.frames:
			if !ok || !out.write(only(frames, types)) {
				return nil
			}
		case <-quiet.C:
			if !out.write([]byte(":\n\n")) {
				return nil
			}
		case <-r.Context().Done():
			return nil
		}
	}
}

func parseEventTypes(r *http.Request) ([]string, error) {
	q, err := query(r, "types")
	if err != nil {
		return nil, err
	}
	noted, state := eventTypes()
	all := append(noted, state...)
	if !q.Has("types") {
		return all, nil
	}
	types := strings.Split(q.Get("types"), ",")
	for _, t := range types {
		if !slices.Contains(all, t) {
			return nil, malformed("there are no events of type %q: types are %s, separated by commas", t, strings.Join(all, ", "))
		}
	}
	return types, nil
}

// frame is one server-sent event; JSON has no line breaks.
func frame(id, name string, data any) []byte {
	var b bytes.Buffer
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + name + "\ndata: ")
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(data) // our own types always encode, and a Buffer never fails; it ends the line
	b.WriteByte('\n')
	return b.Bytes()
}

// only keeps the frames of the types given.
func only(frames []byte, types []string) []byte {
	var b []byte
	for f := range bytes.SplitAfterSeq(frames, []byte("\n\n")) {
		name, _, _ := bytes.Cut(bytes.TrimPrefix(f, []byte("event: ")), []byte("\n"))
		if slices.Contains(types, string(name)) {
			b = append(b, f...)
		}
	}
	return b
}

// eventWriter writes to a client for as long as that takes what it is sent.
type eventWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// begin frees the stream from the bounds of ordinary requests, and tells how soon to come back
// after its end. Errors are of writers that know no deadlines.
func (e *eventWriter) begin() {
	_ = e.rc.SetReadDeadline(time.Time{})
	e.write([]byte("retry: 1000\n\n"))
}

func (e *eventWriter) write(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	_ = e.rc.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := e.w.Write(b); err != nil {
		return false
	}
	return e.rc.Flush() == nil
}
