package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/api"
)

// Headers between nodes.
const (
	// headerTable carries the table index that makes a write visible.
	headerTable = "Weir-Table-Index"
	// headerForwarded names the node that forwarded a request.
	headerForwarded = "Weir-Forwarded"
	// headerNotLeader marks the answer of a node that was asked as the leader but does not lead:
	// nothing was written.
	headerNotLeader = "Weir-Not-Leader"
)

// answer is a successful result that has yet to be encoded.
type answer struct {
	status int // 0: 200
	body   any
	etag   string
	index  uint64 // a write's log index
	table  uint64 // the first table index at which the write is visible
}

// reply is an encoded answer, of this node or of another.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// reading serves an endpoint that only reads, or acts on this node alone.
func reading(f func(*http.Request) (answer, error)) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		a, err := f(r)
		if err != nil {
			return err
		}
		rep, err := a.reply()
		if err != nil {
			return err
		}
		if a.etag != "" && noneMatch(r.Header.Values("If-None-Match"), a.etag) {
			w.Header().Set("Etag", a.etag)
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		rep.write(w)
		return nil
	}
}

// bodiless serves an action that takes no fields in a body.
func bodiless(e endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		body, err := readBody(w, r, maxBody)
		if err != nil {
			return err
		}
		if err := takesNothing(body); err != nil {
			return err
		}
		return e(w, r)
	}
}

func (a answer) reply() (reply, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a.body); err != nil {
		return reply{}, fmt.Errorf("encode the answer: %w", err)
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if a.etag != "" {
		h.Set("Etag", a.etag)
	}
	if a.index != 0 {
		h.Set(api.HeaderIndex, strconv.FormatUint(a.index, 10))
	}
	if a.table != 0 {
		h.Set(headerTable, strconv.FormatUint(a.table, 10))
	}
	status := a.status
	if status == 0 {
		status = http.StatusOK
	}
	return reply{status: status, header: h, body: b.Bytes()}, nil
}

func (rep reply) write(w http.ResponseWriter) {
	for k, v := range rep.header {
		w.Header()[k] = v
	}
	w.WriteHeader(rep.status)
	_, _ = w.Write(rep.body) // a client that has gone is no error here
}

// noneMatch reports whether a read's If-None-Match names the tag, by the weak comparison of RFC
// 9110, section 13.1.2.
func noneMatch(values []string, tag string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			t = strings.TrimSpace(t)
			if t == "*" || strings.TrimPrefix(t, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// readingFor is reading for an endpoint that answers peers differently.
func readingFor(peer bool, f func(r *http.Request, peer bool) (answer, error)) endpoint {
	return reading(func(r *http.Request) (answer, error) { return f(r, peer) })
}
