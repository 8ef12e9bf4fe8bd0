package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// parseLimits reads the body that replaces all limits. The list is required, so that an empty
// object can't delete them all.
func parseLimits(body []byte, source limit.Source, evict bool) ([]limit.Limit, error) {
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
	ls := make([]limit.Limit, 0, len(raws))
	seen := make(map[limit.Pattern]int, len(raws))
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
			return nil, invalid("limits[%d] and limits[%d] are both for %s", j, i, l.Pattern.Name())
		}
		seen[l.Pattern] = i
		l.Source, l.Evict = source, evict
		ls = append(ls, l)
	}
	return ls, nil
}

// ParseLimit returns the limit that l describes, as PUT /v1/limits takes it. The error says what is
// wrong with it.
func ParseLimit(l api.Limit) (limit.Limit, error) {
	body, err := json.Marshal(l)
	if err != nil {
		return limit.Limit{}, err
	}
	o, err := parseBody(body)
	if err != nil {
		return limit.Limit{}, err
	}
	return parseLimit(o, nil)
}

// parseLimit reads one limit. Its pattern is the given one, which the body may repeat, or else the
// body's.
func parseLimit(o *object, given *limit.Pattern) (limit.Limit, error) {
	l := limit.Limit{Connections: limit.Unlimited}
	if err := o.only("scope", "pattern", "connections", "requests", "bandwidth", "queue", "shared", "mode", "source", "modify_index", "index"); err != nil {
		return l, err
	}
	var err error
	if l.Pattern, err = parseLimitPattern(o, given); err != nil {
		return l, err
	}
	if err := o.decode("connections", &l.Connections, wholeFrom(0, limit.MaxConnections)+", or null for no cap"); err != nil {
		return l, err
	}
	if o.has("connections") && l.Connections < 0 {
		return l, invalid("%s must be 0 or more, or null for no cap", o.path("connections"))
	}
	if err := o.decode("shared", &l.Shared, "true or false"); err != nil {
		return l, err
	}
	for _, parse := range []func(*object, *limit.Limit) error{parseMode, parseRequests, parseBandwidth, parseQueue} {
		if err := parse(o, &l); err != nil {
			return l, err
		}
	}
	return l, l.Validate()
}

// wholeFrom says what a number must be. JSON has other forms of one, as in 1e3 and 5.0.
func wholeFrom(least, most int64) string {
	return fmt.Sprintf("a whole number from %d to %d, written in digits alone", least, most)
}

func parseLimitPattern(o *object, given *limit.Pattern) (limit.Pattern, error) {
	scope := limit.ScopeHost
	if given != nil {
		scope = given.Scope()
	}
	var word string
	if err := o.decode("scope", &word, "a string"); err != nil {
		return limit.Pattern{}, err
	}
	if word != "" {
		written, err := limit.ParseScope(word)
		if err != nil {
			return limit.Pattern{}, invalid("%s: %s", o.path("scope"), err)
		}
		if given != nil && written != scope {
			return limit.Pattern{}, invalid("the body is of scope %s, but the path of %s", written, scope)
		}
		scope = written
	}
	var text string
	switch {
	case o.has("pattern"):
		if err := o.decode("pattern", &text, "a string"); err != nil {
			return limit.Pattern{}, err
		}
	case given != nil:
		return *given, nil
	case !scope.Bare():
		return limit.Pattern{}, invalid("%s is missing", o.path("pattern"))
	}
	p, err := scope.ParsePattern(text)
	if err != nil {
		return p, invalid("%s: %s", o.path("pattern"), err)
	}
	if given != nil && p != *given {
		return p, invalid("the body is for %s, but the path for %s", p.Name(), given.Name())
	}
	return p, nil
}

func parseMode(o *object, l *limit.Limit) error {
	var mode string
	if err := o.decode("mode", &mode, `"enforce" or "report"`); err != nil {
		return err
	}
	if mode != "" && mode != api.ModeEnforce && mode != api.ModeReport {
		return invalid(`%s must be "enforce" or "report", not %q`, o.path("mode"), shorten(mode))
	}
	l.Report = mode == api.ModeReport
	return nil
}

func parseRequests(o *object, l *limit.Limit) error {
	if !o.has("requests") {
		return nil
	}
	ro, err := parseObject(o.fields["requests"], o.path("requests"))
	if err != nil {
		return err
	}
	if err := ro.only("rate", "burst"); err != nil {
		return err
	}
	var rate string
	var burst int64
	if err := ro.decode("rate", &rate, `a string such as "10/s", "600/m" or "0.5/h"`); err != nil {
		return err
	}
	if !ro.has("rate") {
		return invalid(`%s is missing: write a rate such as "10/s", or leave requests out for no cap`, ro.path("rate"))
	}
	if err := ro.decode("burst", &burst, wholeFrom(1, limit.MaxRequests)); err != nil {
		return err
	}
	if ro.has("burst") && burst < 1 {
		return invalid("%s is %d: write at least 1, or a request could never begin", ro.path("burst"), burst)
	}
	if burst > limit.MaxRequests {
		return invalid("%s is %d: write at most %d", ro.path("burst"), burst, limit.MaxRequests)
	}
	if l.Requests, err = limit.ParseRate(rate, burst); err != nil {
		return invalid("%s: %s", ro.path("rate"), plainReason(err))
	}
	return nil
}

func parseBandwidth(o *object, l *limit.Limit) error {
	if !o.has("bandwidth") {
		return nil
	}
	bo, err := parseObject(o.fields["bandwidth"], o.path("bandwidth"))
	if err != nil {
		return err
	}
	if err := bo.only("upload", "download", "burst"); err != nil {
		return err
	}
	for name, to := range map[string]*int64{"upload": &l.Bandwidth.Upload, "download": &l.Bandwidth.Download, "burst": &l.Bandwidth.Burst} {
		var text string
		if err := bo.decode(name, &text, `a string such as "10MB"`); err != nil {
			return err
		}
		if !bo.has(name) {
			continue
		}
		if *to, err = limit.ParseBytes(text); err != nil {
			return invalid("%s: %s", bo.path(name), plainReason(err))
		}
	}
	if l.Bandwidth.Upload == 0 && l.Bandwidth.Download == 0 {
		return invalid("%s needs upload, download or both; leave it out for no cap", bo.at)
	}
	return nil
}

// plainReason is an error of a value without saying again that it is one.
func plainReason(err error) string {
	return strings.TrimPrefix(err.Error(), limit.ErrInvalid.Error()+": ")
}

// minQueueTimeout is the shortest that may be set, in a config as here.
const minQueueTimeout = time.Millisecond

func parseQueue(o *object, l *limit.Limit) error {
	if !o.has("queue") {
		return nil
	}
	qo, err := parseObject(o.fields["queue"], o.path("queue"))
	if err != nil {
		return err
	}
	if err := qo.only("timeout", "size"); err != nil {
		return err
	}
	var timeout api.Duration
	if err := qo.decode("timeout", &timeout, `a duration such as "2s"`); err != nil {
		return err
	}
	if err := qo.decode("size", &l.Queue.Size, wholeFrom(1, limit.MaxQueueSize)); err != nil {
		return err
	}
	l.Queue.Timeout = time.Duration(timeout)
	if !l.Queue.Enabled() {
		return invalid("%s needs a timeout and a size, both above 0; leave it out to refuse at once", qo.at)
	}
	if t := l.Queue.Timeout; t < minQueueTimeout || t > limit.MaxQueueTimeout {
		return invalid("%s: %s is out of range: write a duration from 1ms to 1h", qo.path("timeout"), shorten(string(qo.fields["timeout"])))
	}
	return nil
}
