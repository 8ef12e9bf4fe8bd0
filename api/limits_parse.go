package api

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// parseLimits reads the body that replaces all limits. The list is required, so that an empty
// object can't delete them all.
func parseLimits(body []byte, source fsm.Source, evict bool) ([]fsm.Limit, error) {
	o, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	if err := o.only("index", "limits"); err != nil {
		return nil, err
	}
	if !o.has("limits") {
		return nil, invalid("limits is missing: send {\"limits\": []} to delete all")
	}
	var raws []json.RawMessage
	if err := o.decode("limits", &raws, "a list"); err != nil {
		return nil, err
	}
	ls := make([]fsm.Limit, 0, len(raws))
	seen := make(map[fsm.Pattern]int, len(raws))
	for i, raw := range raws {
		o, err := parseObject(raw, fmt.Sprintf("limits[%d]", i))
		if err != nil {
			return nil, err
		}
		l, err := parseLimit(o, nil)
		if err != nil {
			return nil, err
		}
		if j, twice := seen[l.Pattern]; twice {
			return nil, invalid("limits[%d] and limits[%d] are both for %s", j, i, l.Pattern)
		}
		seen[l.Pattern] = i
		l.Source, l.Evict = source, evict
		ls = append(ls, l)
	}
	return ls, nil
}

// parseLimit reads one limit. Its pattern is the given one, which the body may repeat, or else the
// body's.
func parseLimit(o *object, given *fsm.Pattern) (fsm.Limit, error) {
	l := fsm.Limit{Connections: fsm.Unlimited}
	if err := o.only("pattern", "connections", "queue", "shared", "source", "modify_index", "index"); err != nil {
		return l, err
	}
	var err error
	if l.Pattern, err = parseLimitPattern(o, given); err != nil {
		return l, err
	}
	if err := o.decode("connections", &l.Connections, "a whole number, or null for no cap"); err != nil {
		return l, err
	}
	if o.has("connections") && l.Connections < 0 {
		return l, invalid("%s must be 0 or more, or null for no cap", o.path("connections"))
	}
	if err := o.decode("shared", &l.Shared, "true or false"); err != nil {
		return l, err
	}
	if l.Queue, err = parseQueue(o); err != nil {
		return l, err
	}
	if err := l.Validate(); err != nil {
		return l, err
	}
	return l, nil
}

func parseLimitPattern(o *object, given *fsm.Pattern) (fsm.Pattern, error) {
	if !o.has("pattern") {
		if given == nil {
			return fsm.Pattern{}, invalid("%s is missing", o.path("pattern"))
		}
		return *given, nil
	}
	var text string
	if err := o.decode("pattern", &text, "a string"); err != nil {
		return fsm.Pattern{}, err
	}
	p, err := fsm.ParsePattern(text)
	if err != nil {
		return p, invalid("%s: %s", o.path("pattern"), err)
	}
	if given != nil && p != *given {
		return p, invalid("the body is for %s, but the path for %s", p, *given)
	}
	return p, nil
}

func parseQueue(o *object) (fsm.Queue, error) {
	var q fsm.Queue
	if !o.has("queue") {
		return q, nil
	}
	qo, err := parseObject(o.fields["queue"], o.path("queue"))
	if err != nil {
		return q, err
	}
	if err := qo.only("timeout", "size"); err != nil {
		return q, err
	}
	var timeout Duration
	if err := qo.decode("timeout", &timeout, `a duration such as "2s"`); err != nil {
		return q, err
	}
	if err := qo.decode("size", &q.Size, "a whole number"); err != nil {
		return q, err
	}
	q.Timeout = time.Duration(timeout)
	if q.Timeout <= 0 || q.Size <= 0 {
		return q, invalid("%s needs a timeout and a size, both above 0; leave it out to refuse at once", qo.at)
	}
	return q, nil
}
