package proxy

import (
	"bytes"
	"slices"
)

// syntaxError says why a message isn't HTTP/1.x as RFC 9112 has it; it is shown to clients.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

// What may be wrong with a message. What RFC 9112 lets a recipient read is read, and written anew;
// what two parsers could read in two ways all the same is refused (§11.2). docs/workers.md has the
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

// kindOf looks a field name up, without regard to case.
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

// knownFields are by the length of their names; nothing changes it.
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

// field is one header field; its slices are into the head.
type field struct {
	name, value []byte
	kind        fieldKind
}

// head is a parsed message head. Its slices are into the bytes it was parsed from, and it is reused
// from one message to the next.
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
	upgrade    []byte // the Upgrade field, where Connection names it
	expect     bool   // 100-continue
	trailersOK bool   // TE: trailers
	via        bool
	nominated  [][]byte // other names in Connection

	authorizations int
	authorization  []byte // the last one's value
}

func (h *head) clear() {
	*h = head{length: -1, fields: h.fields[:0], nominated: h.nominated[:0]}
}

// parseRequest reads a whole request head, empty line included.
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
	// RFC 9112 §3.2: exactly one Host. A CONNECT names its authority in the target, and many
	// clients write no Host beside it.
	missing := h.hosts == 0 && h.minor > 0 && string(h.method) != "CONNECT"
	if missing || h.hosts > 1 || !isHostField(h.host) {
		return errHost
	}
	return nil
}

// parseResponse reads a whole response head, empty line included. It writes into b what it tidies.
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

// parseFields reads the lines up to the empty one. A response's are tidied first: nothing that a
// recipient may read in its fields has a second meaning, since the upstream chooses its whole
// answer anyway.
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

// note keeps what a field says about the message or the connection.
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
		// Only chunked, once: RFC 9112 §6.1 lets no other coding be guessed.
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

// noteConnection keeps the options of Connection. Of its historical twin, Proxy-Connection, only
// "close" counts.
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

// checkFraming judges what only the whole head shows (RFC 9112 §6.1, §6.3).
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

// announcesContent reports whether the message says that content follows.
func (h *head) announcesContent() bool { return h.chunked || h.length > 0 }

// persists reports whether the sender lets its connection be used again (RFC 9112 §9.3).
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

// hopByHop reports whether a field ends here (RFC 9110 §7.6.1): those that Connection names, those
// that always do, and those that are written anew.
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

// badSwitch says what is wrong with a 101 to a request of which sent is whether all of it had been
// sent, and asked whether it asked for another protocol (RFC 9110 §7.8); "" where nothing is.
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
