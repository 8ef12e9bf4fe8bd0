package http1

import (
	"bytes"
	"slices"
)

// SyntaxError says why a message is not HTTP/1.x by RFC 9112. Clients see it.
type SyntaxError string

// Error implements error.
func (e SyntaxError) Error() string { return string(e) }

// Errors of parsing. Messages that RFC 9112 lets a recipient repair are repaired and written anew;
// whatever two parsers could still read differently is refused (§11.2). docs/workers.md has the
// list.
const (
	ErrNotHTTP    = SyntaxError("not an HTTP/1.1 message")
	errBareLF     = SyntaxError("a line of chunked content ends without CR LF")
	errStartLine  = SyntaxError("malformed first line")
	errVersion    = SyntaxError("the HTTP version is not 1.0 or 1.1")
	errFirstFold  = SyntaxError("the first header field begins with a space")
	errHost       = SyntaxError("missing, repeated or malformed Host")
	errLength     = SyntaxError("malformed or contradictory Content-Length")
	errCoding     = SyntaxError("unsupported Transfer-Encoding")
	errBothFramed = SyntaxError("both Content-Length and Transfer-Encoding")
	errChunk      = SyntaxError("malformed chunk")
	errTrailer    = SyntaxError("malformed or oversized trailer section")
)

// Kind names the header fields that a proxy acts on.
type Kind uint8

const (
	fieldOther Kind = iota
	fieldAuthorization
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

// kindOf returns the kind of a field name, which is not empty, ignoring case.
func kindOf(name []byte) Kind {
	for _, k := range knownFields[min(len(name), len(knownFields)-1)] {
		if name[0]|0x20 == k.name[0] && equalFold(name, k.name) { // most names differ in the first letter
			return k.kind
		}
	}
	return fieldOther
}

type knownField struct {
	name string
	kind Kind
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
	13: {{"authorization", fieldAuthorization}},
	14: {{"content-length", fieldContentLength}},
	16: {{"proxy-connection", fieldProxyConnection}},
	17: {{"transfer-encoding", fieldTransferEncoding}},
	18: {{"proxy-authenticate", fieldProxyAuthenticate}},
	19: {{"proxy-authorization", fieldProxyAuthorization}},
}

// Field is one header field. Its slices point into the head.
type Field struct {
	Name, Value []byte
	Kind        Kind
}

// Head is a parsed message head. Its slices point into the bytes that were parsed. It is reused for
// the next message.
type Head struct {
	Method, Target []byte // of a request
	Status         int    // of a response
	Reason         []byte
	Minor          int // the version is HTTP/1.minor

	Fields     []Field
	hosts      int
	Host       []byte
	Length     int64 // Content-Length, -1 without
	Chunked    bool
	close      bool
	keepAlive  bool
	Upgrade    []byte // the Upgrade field, if Connection names it
	upgrades   int    // Upgrade fields
	trailersOK bool   // TE: trailers
	via        bool
	nominated  [][]byte // other names in Connection; at most MaxNominated + 1

	Authorizations int
	Authorization  []byte // the value of the last one
	// ForConnection says that an Authorization, which is for the origin, is not of the request alone
	// but of its connection, and so of those that follow on it (RFC 4559 §6).
	ForConnection bool

	empty bool // since Clear
}

// maxKept bounds the memory that an empty head keeps, in fields: most heads have fewer than half of
// that. A lower value costs an allocation for each longer head, a higher one memory for each
// connection that has once had a long head.
const maxKept = 100

// Clear empties the head. It keeps as much of its memory as an ordinary head needs, and nothing of
// the bytes that were parsed.
func (h *Head) Clear() {
	if h.empty {
		return
	}
	fields, nominated := h.Fields, h.nominated
	if cap(fields) > maxKept {
		fields = nil
	}
	if cap(nominated) > maxKept {
		nominated = nil
	}
	clear(fields)
	if len(nominated) > 0 {
		clear(nominated)
	}
	*h = Head{Length: -1, Fields: fields[:0], nominated: nominated[:0], empty: true}
}

// begin empties the head for the next message.
func (h *Head) begin() {
	h.Clear()
	h.empty = false
}

// ParseRequest parses a whole request head, including its empty line.
func (h *Head) ParseRequest(b []byte) error {
	h.begin()
	line, rest := cutLine(b)
	sp1 := bytes.IndexByte(line, ' ')
	sp2 := bytes.LastIndexByte(line, ' ')
	if sp1 <= 0 || sp2 <= sp1+1 {
		return errStartLine
	}
	h.Method, h.Target = line[:sp1], line[sp1+1:sp2]
	if !IsToken(h.Method) || !isTarget(h.Target) {
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
	missing := h.hosts == 0 && h.Minor > 0 && string(h.Method) != "CONNECT"
	if missing || h.hosts > 1 || !isHostField(h.Host) {
		return errHost
	}
	return nil
}

// ParseResponse parses a whole response head, including its empty line. It repairs fields in place,
// in b.
func (h *Head) ParseResponse(b []byte) error {
	h.begin()
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
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 {
		return errStartLine
	}
	if reason := line[12:]; len(reason) > 0 {
		if reason[0] != ' ' || !isFieldValue(reason) {
			return errStartLine
		}
		h.Reason = reason[1:]
	}
	return h.parseFields(rest, true)
}

func (h *Head) parseVersion(v []byte) error {
	switch string(v) {
	case "HTTP/1.1":
		h.Minor = 1
	case "HTTP/1.0":
		h.Minor = 0
	default:
		return errVersion
	}
	return nil
}

// parseFields parses the lines up to the empty one. With tidy, for responses, it repairs the lines
// first, so that the client gets fields with only one reading.
func (h *Head) parseFields(b []byte, tidy bool) error {
	unfolded := !tidy
	for {
		line, rest := cutLine(b)
		if len(line) == 0 {
			return h.checkFraming()
		}
		if isSpace(line[0]) {
			return h.errFold()
		}
		if !unfolded && len(rest) > 0 && isSpace(rest[0]) { // few heads have such a line
			unfold(b)
			unfolded = true
			line, rest = cutLine(b)
		}
		b = rest
		f, err := parseField(line, tidy)
		if err != nil {
			return err
		}
		h.Fields = append(h.Fields, f)
		if err := h.note(f); err != nil {
			return err
		}
		if len(h.Fields) > MaxFields || len(h.nominated) > MaxNominated {
			return ErrTooMany
		}
	}
}

// note records what a field says about the message or the connection.
func (h *Head) note(f Field) error {
	switch f.Kind {
	case fieldHost:
		h.hosts++
		h.Host = f.Value
	case fieldContentLength:
		n, ok := parseLengths(f.Value)
		if !ok || h.Length >= 0 && h.Length != n {
			return errLength
		}
		h.Length = n
	case fieldTransferEncoding:
		// Only one chunked coding: RFC 9112 §6.1 does not let a recipient guess others.
		if h.Chunked || !equalFold(f.Value, "chunked") {
			return errCoding
		}
		h.Chunked = true
	case fieldConnection, fieldProxyConnection:
		h.noteConnection(f)
	case fieldUpgrade:
		if h.upgrades++; h.upgrades == 1 {
			h.Upgrade = f.Value
		}
	case fieldTE:
		eachItem(f.Value, func(item []byte) {
			h.trailersOK = h.trailersOK || equalFold(item, "trailers")
		})
	case fieldVia:
		h.via = true
	case fieldAuthorization:
		scheme, _, _ := bytes.Cut(f.Value, []byte(" "))
		h.ForConnection = h.ForConnection || equalFold(scheme, "ntlm") || equalFold(scheme, "negotiate")
	case fieldProxyAuthorization:
		h.Authorizations++
		h.Authorization = f.Value
	}
	return nil
}

// noteConnection records the options of Connection. Of the historical Proxy-Connection only "close"
// counts.
func (h *Head) noteConnection(f Field) {
	eachItem(f.Value, func(item []byte) {
		switch {
		case equalFold(item, "close"):
			h.close = true
		case f.Kind == fieldProxyConnection:
		case equalFold(item, "keep-alive"):
			h.keepAlive = true
		case len(h.nominated) <= MaxNominated: // one more than allowed shows that there are too many
			h.nominated = append(h.nominated, item)
		}
	})
}

// checkFraming checks what only the whole head shows (RFC 9112 §6.1, §6.3).
func (h *Head) checkFraming() error {
	if h.Chunked && h.Length >= 0 {
		return errBothFramed
	}
	if h.Chunked && h.Minor == 0 {
		return errCoding
	}
	if h.upgrades > 1 {
		h.Upgrade = h.joinUpgrades()
	}
	if h.Upgrade != nil && (len(h.Upgrade) == 0 || h.Minor == 0 || !h.nominates("upgrade")) {
		h.Upgrade = nil
	}
	return nil
}

// joinUpgrades returns a list over several lines as one (RFC 9110 §5.3).
func (h *Head) joinUpgrades() []byte {
	values := make([][]byte, 0, h.upgrades)
	for _, f := range h.Fields {
		if f.Kind == fieldUpgrade {
			values = append(values, f.Value)
		}
	}
	return bytes.Join(values, []byte(", "))
}

// AnnouncesContent reports whether the head announces content.
func (h *Head) AnnouncesContent() bool { return h.Chunked || h.Length > 0 }

// Persists reports whether the sender allows the connection to be reused (RFC 9112 §9.3).
func (h *Head) Persists() bool {
	return !h.close && (h.Minor > 0 || h.keepAlive)
}

// nominates reports whether Connection names the field.
func (h *Head) nominates(name string) bool {
	for _, n := range h.nominated {
		if equalFold(n, name) {
			return true
		}
	}
	return false
}

// hopByHop reports whether a field is not forwarded (RFC 9110 §7.6.1): Connection names it, it is
// hop-by-hop by definition, or the proxy writes its own.
func (h *Head) hopByHop(f Field) bool {
	switch f.Kind {
	case fieldConnection, fieldKeepAlive, fieldProxyConnection, fieldProxyAuthenticate, fieldProxyAuthorization,
		fieldTE, fieldTransferEncoding, fieldContentLength, fieldUpgrade, fieldHost:
		return true
	}
	for _, n := range h.nominated {
		if len(n) == len(f.Name) && bytes.EqualFold(n, f.Name) {
			return true
		}
	}
	return false
}

// PassedThrough reports whether Via names the node (RFC 9110 §7.6.3).
func (h *Head) PassedThrough(pseudonym string) bool {
	if !h.via {
		return false
	}
	found := false
	for _, f := range h.Fields {
		if f.Kind != fieldVia {
			continue
		}
		eachItem(f.Value, func(item []byte) {
			words := bytes.Fields(item)
			found = found || len(words) >= 2 && equalFold(words[1], pseudonym)
		})
	}
	return found
}

// BadSwitch returns what is wrong with a 101 response (RFC 9110 §7.8), or "". sent says whether the
// whole request had been sent, asked whether it asked for another protocol.
func (h *Head) BadSwitch(sent, asked bool) string {
	switch {
	case !asked:
		return "the upstream switched protocols without being asked to"
	case !sent:
		return "the upstream switched protocols before it had read the whole request"
	case h.Minor == 0:
		return "the upstream's 101 is of HTTP/1.0, which can't switch protocols"
	case h.Upgrade != nil:
		return ""
	case !slices.ContainsFunc(h.Fields, func(f Field) bool { return f.Kind == fieldUpgrade && len(f.Value) > 0 }):
		return "the upstream's 101 has no Upgrade field: it does not say to which protocol it switched"
	}
	return "the upstream's 101 has no \"Connection: upgrade\" beside its Upgrade field"
}
