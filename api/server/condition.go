package server

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// condition holds a write's If-Match or If-None-Match, RFC 9110, section 13.1.
type condition struct {
	exists  bool     // If-Match: *
	indexes []uint64 // If-Match: tags; a foreign tag becomes an index that matches nothing
	absent  bool     // If-None-Match: *
}

func parseCondition(r *http.Request) (condition, error) {
	var c condition
	match, none := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	if len(match) > 0 && len(none) > 0 {
		return c, malformed("send If-Match or If-None-Match, not both")
	}
	if len(none) > 0 {
		if len(none) > 1 || strings.TrimSpace(none[0]) != "*" {
			return c, malformed("a write takes If-None-Match: * alone, which creates and never overwrites")
		}
		c.absent = true
		return c, nil
	}
	tags := strings.Split(strings.Join(match, ","), ",")
	for _, tag := range tags {
		tag = strings.TrimSpace(tag)
		switch {
		case len(match) == 0:
		case tag == "*":
			c.exists = true
		case len(strings.TrimPrefix(tag, "W/")) < 2 || !strings.HasPrefix(strings.TrimPrefix(tag, "W/"), `"`) || !strings.HasSuffix(tag, `"`):
			return c, malformed("If-Match takes an ETag as it was answered, with its quotes, not %q", tag)
		default:
			c.indexes = append(c.indexes, tagIndex(tag))
		}
	}
	if c.exists && len(tags) > 1 {
		return c, malformed("If-Match takes * alone, or tags")
	}
	return c, nil
}

// tagIndex returns the index in one of weir's tags. Other tags match nothing, nor do weak ones,
// because If-Match compares strongly.
func tagIndex(tag string) uint64 {
	n, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
	if err != nil || api.ETag(n) != tag {
		return math.MaxUint64
	}
	return n
}

// forLimit returns the condition for the log. Of several tags, the current one counts; the log
// checks it again.
func (c condition) forLimit(t *limit.Table, p limit.Pattern) fsm.Precondition {
	pre := fsm.Precondition{MustExist: c.exists, MustNotExist: c.absent}
	if l, ok := t.Get(p); ok {
		pre.MatchIndex = c.pick(l.ModifyIndex)
	} else {
		pre.MatchIndex = c.pick(math.MaxUint64)
	}
	return pre
}

// forTable returns the condition on the list of all limits, which always exists.
func (c condition) forTable(t *limit.Table) fsm.Precondition {
	return fsm.Precondition{MatchIndex: c.pick(t.Index), MustNotExist: c.absent}
}

func (c condition) pick(current uint64) *uint64 {
	if len(c.indexes) == 0 {
		return nil
	}
	n := c.indexes[0]
	if slices.Contains(c.indexes, current) {
		n = current
	}
	return &n
}
