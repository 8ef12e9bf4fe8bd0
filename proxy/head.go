package proxy

import (
	"bytes"
	"slices"
)

// syntaxError says why a message is not HTTP/1.x by RFC 9112. Clients see it.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

// Errors of parsing. Messages that RFC 9112 lets a recipient repair are repaired and written anew;
// whatever two parsers could still read differently is refused (§11.2). docs/workers.md has the
// list.
const (
	errNotHTTP     = syntaxError("not an HTTP/1.1 message")
	errBareLF      = syntaxError("a line of chunked content ends without CR LF")
	errStartLine   = syntaxError("malformed first line")
	errVersion     = syntaxError("the HTTP version is not 1.0 or 1.1")
	errFirstFold   = syntaxError("the first header field begins with a space")
	errHost        = syntaxError("missing, repeated or malformed Host")
	errLength      = syntaxError("malformed or contradictory Content-Length")
	errCoding      = syntaxError("unsupported Transfer-Encoding")
	errBothFramed  = syntaxError("both Content-Length and Transfer-Encoding")
	errChunk       = syntaxError("malformed chunk")
	errTrailer     = syntaxError("malformed or oversized trailer section")
	errConnectBody = syntaxError("CONNECT with content")
)

// fieldKind names the header fields that a proxy acts on.
type fieldKind uint8

const (
	fieldOther fieldKind = iota
	fieldConnection
	fieldContentLength
	fieldExpect
	fieldHost
	fieldKeepAlive
	fieldMaxForwards
	fieldProxyAuthenticate
	fieldProxyAuthorization
	fieldProxyConnection
	fieldTE
	fieldTrailer
	fieldTransferEncoding
	fieldUpgrade
	fieldVia
)

// kindOf returns the kind of a field name, ignoring case.
func kindOf(name []byte) fieldKind {
	for _, k := range knownFields[min(len(name), len(knownFields)-1)] {
		if equalFold(name, k.name) {
			return k.kind
		}
	}
	return fieldOther
}

type knownField struct {
	name string
	kind fieldKind
}

// knownFields is indexed by the length of the name. It is never changed.
var knownFields = [21][]knownField{
	2:  {{"te", fieldTE}},
	3:  {{"via", fieldVia}},
	4:  {{"host", fieldHost}},
	6:  {{"expect", fieldExpect}},
	7:  {{"upgrade", fieldUpgrade}, {"trailer", fieldTrailer}},
	10: {{"connection", fieldConnection}, {"keep-alive", fieldKeepAlive}},
	12: {{"max-forwards", fieldMaxForwards}},
	14: {{"content-length", fieldContentLength}},
	16: {{"proxy-connection", fieldProxyConnection}},
	17: {{"transfer-encoding", fieldTransferEncoding}},
	18: {{"proxy-authenticate", fieldProxyAuthenticate}},
	19: {{"proxy-authorization", fieldProxyAuthorization}},
}

// field is one header field. Its slices point into the head.
type field struct {
	name, value []byte
	kind        fieldKind
}

// head is a parsed message head. Its slices point into the bytes that were parsed. It is reused for
// the next message.
type head struct {
	method, target []byte // of a request
	status         int    // of a response
	reason         []byte
	minor          int // the version is HTTP/1.minor

	fields     []field
	hosts      int
	host       []byte
	length     int64 // Content-Length, -1 without
	chunked    bool
	close      bool
	keepAlive  bool
	upgrade    []byte // the Upgrade field, if Connection names it
	expect     bool   // 100-continue
	trailersOK bool   // TE: trailers
	via        bool
	nominated  [][]byte // other names in Connection

	authorizations int
	authorization  []byte // the value of the last one
}

func (h *head) clear() {
	*h = head{length: -1, fields: h.fields[:0], nominated: h.nominated[:0]}
}

// parseRequest parses a whole request head, including its empty line.
func (h *head) parseRequest(b []byte) error {
	h.clear()
	line, rest := cutLine(b)
	sp1 := bytes.IndexByte(line, ' ')
	sp2 := bytes.LastIndexByte(line, ' ')
	if sp1 <= 0 || sp2 <= sp1+1 {
		return errStartLine
	}
	h.method, h.target = line[:sp1], line[sp1+1:sp2]
	if !isToken(h.method) || !isTarget(h.target) {
		return errStartLine
	}
	if err := h.parseVersion(line[sp2+1:]); err != nil {
		return err
	}
	if err := h.parseFields(rest, false); err != nil {
		return err
	}
	// RFC 9112 §3.2: exactly one Host. A CONNECT has its authority in the target, and many clients
	// send no Host with it.
	missing := h.hosts == 0 && h.minor > 0 && string(h.method) != "CONNECT"
	if missing || h.hosts > 1 || !isHostField(h.host) {
		return errHost
	}
	return nil
}

// parseResponse parses a whole response head, including its empty line. It repairs fields in place,
// in b.
func (h *head) parseResponse(b []byte) error {
	h.clear()
	line, rest := cutLine(b)
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' {
		return errStartLine
	}
	if err := h.parseVersion(line[:8]); err != nil {
		return err
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errStartLine
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 {
		return errStartLine
	}
	if reason := line[12:]; len(reason) > 0 {
		if reason[0] != ' ' || !isFieldValue(reason) {
			return errStartLine
		}
		h.reason = reason[1:]
	}
	return h.parseFields(rest, true)
}

func (h *head) parseVersion(v []byte) error {
	switch string(v) {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
		h.minor = 0
	default:
		return errVersion
	}
	return nil
}

// parseFields parses the lines up to the empty one. With tidy, for responses, it repairs the lines
// first, so that the client gets fields with only one reading.
func (h *head) parseFields(b []byte, tidy bool) error {
	if tidy {
		unfold(b)
	}
	for {
		line, rest := cutLine(b)
		if len(line) == 0 {
			return h.checkFraming()
		}
		b = rest
		if isSpace(line[0]) {
			return h.errFold()
		}
		if tidy {
			line = closeUp(line)
		}
		f, err := parseField(line)
		if err != nil {
			return err
		}
		h.fields = append(h.fields, f)
		if err := h.note(f); err != nil {
			return err
		}
	}
}

// note records what a field says about the message or the connection.
func (h *head) note(f field) error {
	switch f.kind {
	case fieldHost:
		h.hosts++
		h.host = f.value
	case fieldContentLength:
		n, ok := parseLengths(f.value)
		if !ok || h.length >= 0 && h.length != n {
			return errLength
		}
		h.length = n
	case fieldTransferEncoding:
		// Only one chunked coding: RFC 9112 §6.1 does not let a recipient guess others.
		if h.chunked || !equalFold(f.value, "chunked") {
			return errCoding
		}
		h.chunked = true
	case fieldConnection, fieldProxyConnection:
		h.noteConnection(f)
	case fieldUpgrade:
		if h.upgrade != nil { // a list over several lines (RFC 9110 §5.3)
			h.upgrade = slices.Concat(h.upgrade, []byte(", "), f.value)
		} else {
			h.upgrade = f.value
		}
	case fieldExpect:
		h.expect = h.expect || hasItem(f.value, "100-continue")
	case fieldTE:
		eachItem(f.value, func(item []byte) {
			h.trailersOK = h.trailersOK || equalFold(item, "trailers")
		})
	case fieldVia:
		h.via = true
	case fieldProxyAuthorization:
		h.authorizations++
		h.authorization = f.value
	}
	return nil
}

// noteConnection records the options of Connection. Of the historical Proxy-Connection only "close"
// counts.
func (h *head) noteConnection(f field) {
	eachItem(f.value, func(item []byte) {
		switch {
		case equalFold(item, "close"):
			h.close = true
		case f.kind == fieldProxyConnection:
		case equalFold(item, "keep-alive"):
			h.keepAlive = true
		default:
			h.nominated = append(h.nominated, item)
		}
	})
}

// checkFraming checks what only the whole head shows (RFC 9112 §6.1, §6.3).
func (h *head) checkFraming() error {
	if h.chunked && h.length >= 0 {
		return errBothFramed
	}
	if h.chunked && h.minor == 0 {
		return errCoding
	}
	if h.upgrade != nil && (len(h.upgrade) == 0 || h.minor == 0 || !h.nominates("upgrade")) {
		h.upgrade = nil
	}
	return nil
}

// announcesContent reports whether the head announces content.
func (h *head) announcesContent() bool { return h.chunked || h.length > 0 }

// persists reports whether the sender allows the connection to be reused (RFC 9112 §9.3).
func (h *head) persists() bool {
	return !h.close && (h.minor > 0 || h.keepAlive)
}

// nominates reports whether Connection names the field.
func (h *head) nominates(name string) bool {
	for _, n := range h.nominated {
		if equalFold(n, name) {
			return true
		}
	}
	return false
}

// hopByHop reports whether a field is not forwarded (RFC 9110 §7.6.1): Connection names it, it is
// hop-by-hop by definition, or the proxy writes its own.
func (h *head) hopByHop(f field) bool {
	switch f.kind {
	case fieldConnection, fieldKeepAlive, fieldProxyConnection, fieldProxyAuthenticate, fieldProxyAuthorization,
		fieldTE, fieldTransferEncoding, fieldContentLength, fieldUpgrade, fieldHost:
		return true
	}
	for _, n := range h.nominated {
		if len(n) == len(f.name) && bytes.EqualFold(n, f.name) {
			return true
		}
	}
	return false
}

// passedThrough reports whether Via names the node (RFC 9110 §7.6.3).
func (h *head) passedThrough(pseudonym string) bool {
	if !h.via {
		return false
	}
	found := false
	for _, f := range h.fields {
		if f.kind != fieldVia {
			continue
		}
		eachItem(f.value, func(item []byte) {
			words := bytes.Fields(item)
			found = found || len(words) >= 2 && equalFold(words[1], pseudonym)
		})
	}
	return found
}

// badSwitch returns what is wrong with a 101 response (RFC 9110 §7.8), or "". sent says whether the
// whole request had been sent, asked whether it asked for another protocol.
func (h *head) badSwitch(sent, asked bool) string {
	switch {
	case !asked:
		return "the upstream switched protocols without being asked to"
	case !sent:
		return "the upstream switched protocols before it had read the whole request"
	case h.minor == 0:
		return "the upstream's 101 is of HTTP/1.0, which can't switch protocols"
	case h.upgrade != nil:
		return ""
	case !slices.ContainsFunc(h.fields, func(f field) bool { return f.kind == fieldUpgrade && len(f.value) > 0 }):
		return "the upstream's 101 has no Upgrade field: it does not say to which protocol it switched"
	}
	return "the upstream's 101 has no \"Connection: upgrade\" beside its Upgrade field"
}
