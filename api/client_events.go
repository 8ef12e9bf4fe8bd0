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

// streamSilence is how long a stream may be silent before the client considers it dead: three of
// the node's own intervals.
const streamSilence = 3 * StreamQuiet

// errSilent ends a stream on which not even the node's signs of life arrive.
var errSilent = fmt.Errorf("nothing has come for %s", streamSilence)

// EventQuery selects the messages of [Client.Events]. The zero value selects all, past and present.
type EventQuery struct {
	// Types selects the events "leader", "member", "limit", "reclaim", "fence" and "drain", and the
	// states "status", "nodes" and "use", which are sent once a second. None selects all.
	Types []string
	// After is the last Notice's ID of an earlier stream, after which this one continues.
	After string
}

// Notice is one message of the event stream. One of the pointers is set.
type Notice struct {
	// ID is an event's value for EventQuery.After; states have none.
	ID     string
	Event  *Event
	Status *Status
	Nodes  *Nodes
	// Use is the use of all hosts in a stream's first message, and the changes in later ones.
	Use *UseFrame
}

// Events follows the cluster: first the events that the node remembers, then each new one. It ends
// only with an error, which it yields last: of the context, of the node (an *[Error]), or of the
// connection. After a lost connection, the caller can continue with After, and should pause first.
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

// errStopped says that the caller stopped the iteration.
var errStopped = errors.New("stopped")

// follow reads the stream until it ends; the error says why.
func (c *Client) follow(ctx context.Context, cancel context.CancelCauseFunc, q EventQuery, yield func(Notice) bool) error {
	k := call{method: http.MethodGet, path: PathEvents, query: values("types", strings.Join(q.Types, ",")), header: http.Header{}}
	k.header.Set("Accept", MediaEvents)
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
		b, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
		if err != nil {
			return err
		}
		return refusal(res.StatusCode, res.Header, b)
	}
	if !strings.HasPrefix(res.Header.Get("Content-Type"), MediaEvents) {
		return fmt.Errorf("%s does not answer as weir does: is it the API's address?", c.base.String())
	}
	return readNotices(res.Body, func() { silent.Reset(streamSilence) }, yield)
}

// readNotices reads server-sent events in the HTML standard's format (section 9.2.6), limited to
// weir's own use of it: one data line each. heard is called for every line.
func readNotices(r io.Reader, heard func(), yield func(Notice) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxAnswer)
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
			if len(lines.Bytes()) > 0 || name == "" { // a comment, or an event without a name
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

// decodeNotice decodes one message. It skips a type that this client does not know.
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
