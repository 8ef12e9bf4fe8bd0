package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
)

// streamWrite bounds one write: a client that reads nothing for so long is gone.
const streamWrite = 10 * time.Second

// eventTypes returns the types that GET /v1/events sends: those of Event, and the cluster's states,
// sent once a second.
func eventTypes() (noted, state []string) {
	return []string{"leader", "member", "limit", "reclaim", "fence", "drain"}, []string{"status", "nodes", "use"}
}

// eventStream answers GET /v1/events[?types=leader,limit] with server-sent events, until the client
// disconnects or is too slow.
//
// The stream begins with the remembered events; with a Last-Event-ID, with those after it. Then it
// sends "status" ([api.Status]), "nodes" ([api.Nodes]) and "use" ([api.UseFrame], the first with
// all hosts) once a second, and each new [api.Event].
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
	h.Set("Content-Type", api.MediaEvents)
	h.Set("X-Accel-Buffering", "no") // nginx would buffer
	out := &eventWriter{w: w, rc: http.NewResponseController(w)}
	out.begin()
	if r.Method == http.MethodHead {
		return nil
	}
	quiet := time.NewTicker(api.StreamQuiet)
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

// frame returns one server-sent event; JSON has no line breaks.
func frame(id, name string, data any) []byte {
	var b bytes.Buffer
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + name + "\ndata: ")
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(data) // our types always encode, and a Buffer never fails; Encode ends the line
	b.WriteByte('\n')
	return b.Bytes()
}

// only keeps the frames of the given types.
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

// eventWriter writes to a client until the client stops reading.
type eventWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// begin lifts the time limits of ordinary requests from the stream, and sends how soon to reconnect
// after its end. Errors are of writers without deadlines.
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
