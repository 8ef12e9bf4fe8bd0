package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"
)

// streamSilence is how long a stream may be silent before the client takes it for dead: three times
// as long as a node is.
const streamSilence = 3 * streamQuiet

// errSilent ends a stream whose node says nothing any more, not even that it lives.
var errSilent = fmt.Errorf("nothing has come for %s", streamSilence)

// EventQuery chooses what [Client.Events] tells. The zero value asks for everything that is
// remembered and happens.
type EventQuery struct {
	// Types are "leader", "member", "limit", "reclaim", "fence" and "drain", which are events, and
	// "status", "nodes" and "use", which tell the cluster's state once a second; none are all.
	Types []string
	// After is the last Notice's ID of an earlier stream: its events are not told again.
	After string
}

// Notice is one message of the event stream. One of the pointers is set.
type Notice struct {
	// ID is what goes on behind an event, in EventQuery.After; states have none.
	ID     string
	Event  *Event
	Status *Status
	Nodes  *Nodes
	// Use is, in a stream's first, the use of all hosts; in the others, what has changed.
	Use *UseFrame
}

// Events follows the cluster: first come the events that the node remembers, and then everything as
// it happens. It doesn't end but with an error, which is the last thing it yields: of the context,
// of the node (an *[Error]), or of the connection. Going on after a lost connection is the
// caller's: with After, and after a pause.
func (c *Client) Events(ctx context.Context, q EventQuery) iter.Seq2[Notice, error] {
	return func(yield func(Notice, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		err := c.follow(ctx, cancel, q, func(n Notice) bool { return yield(n, nil) })
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errStopped) {
			err = cause
		}
		if !errors.Is(err, errStopped) {
			yield(Notice{}, err)
		}
	}
}

// errStopped: whoever ranges over the events wants no more of them.
var errStopped = errors.New("stopped")

// follow reads the stream until it ends; the error says why.
func (c *Client) follow(ctx context.Context, cancel context.CancelCauseFunc, q EventQuery, yield func(Notice) bool) error {
	k := call{method: http.MethodGet, path: "/v1/events", query: values("types", strings.Join(q.Types, ",")), header: http.Header{}}
	k.header.Set("Accept", "text/event-stream")
	if q.After != "" {
		k.header.Set("Last-Event-ID", q.After)
	}
	req, err := c.request(ctx, k)
	if err != nil {
		return err
	}
	silent := time.AfterFunc(streamSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
		if err != nil {
			return err
		}
		return refusal(res.StatusCode, res.Header, b)
	}
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return fmt.Errorf("%s does not answer as weir does: is it the API's address?", c.base.String())
	}
	return readNotices(res.Body, func() { silent.Reset(streamSilence) }, yield)
}

// readNotices reads server-sent events, as the HTML standard writes them (section 9.2.6), as far as
// weir sends them: one data line each. heard is called for every line.
func readNotices(r io.Reader, heard func(), yield func(Notice) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxPeerAnswer)
	var id, name string
	var data []byte
	for lines.Scan() {
		heard()
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			id = string(value)
		case "event":
			name = string(value)
		case "data":
			data = append(data[:0], value...)
		case "":
			if len(lines.Bytes()) > 0 || name == "" { // a comment, or nothing to tell
				continue
			}
			n, known, err := decodeNotice(id, name, data)
			if err != nil {
				return err
			}
			if known && !yield(n) {
				return errStopped
			}
			id, name, data = "", "", data[:0]
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the node has ended the stream: %w", io.ErrUnexpectedEOF)
}

// decodeNotice reads one message. One of a type that this client doesn't know is passed over.
func decodeNotice(id, name string, data []byte) (n Notice, known bool, err error) {
	n.ID = id
	var into any
	switch name {
	case "status":
		n.Status = new(Status)
		into = n.Status
	case "nodes":
		n.Nodes = new(Nodes)
		into = n.Nodes
	case "use":
		n.Use = new(UseFrame)
		into = n.Use
	case "leader", "member", "limit", "reclaim", "fence", "drain":
		n.Event = new(Event)
		into = n.Event
	default:
		return n, false, nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return n, false, fmt.Errorf("the node's event %q can't be read: %w", name, err)
	}
	return n, true, nil
}
