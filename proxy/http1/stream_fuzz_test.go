package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirproxy/weir/limit"
)

// stream is an input whose bytes arrive in pieces, and then end. Bytes that are no longer valid are
// overwritten.
type stream struct {
	buf    []byte
	r      int // the unread bytes are buf[r:]
	pieces [][]byte
}

// arriving returns an input that receives data in pieces of n bytes.
func arriving(data []byte, n int) *stream {
	return &stream{pieces: slices.Collect(slices.Chunk(data, n))}
}

func (s *stream) Bytes() []byte { return s.buf[s.r:] }

func (s *stream) Fill() error {
	old := s.buf
	s.buf, s.r = slices.Clone(s.Bytes()), 0
	clear(old)
	if len(s.pieces) == 0 {
		return io.EOF
	}
	s.buf = append(s.buf, s.pieces[0]...)
	s.pieces = s.pieces[1:]
	return nil
}

func (s *stream) Skip(n int) {
	if s.r += n; s.r == len(s.buf) {
		clear(s.buf)
		s.buf, s.r = nil, 0
	}
}

func (s *stream) Pass(n int) { s.r += n }

func (s *stream) Pay(n int) (int, error) { return n, nil }

// sink is an output that keeps everything.
type sink struct{ buf, sent []byte }

func (s *sink) Writable() []byte { return s.buf }

func (s *sink) Set(b []byte) { s.buf = b }

func (s *sink) Flush() error { return s.Send(nil, nil) }

func (s *sink) Send(p, end []byte) error {
	s.sent = slices.Concat(s.sent, s.buf, p, end)
	clear(s.buf)
	s.buf = s.buf[:0]
	return nil
}

func (s *sink) Err() error { return nil }

// written returns the whole output.
func (s *sink) written() []byte {
	s.Flush()
	return slices.Clone(s.sent)
}

// message is a parsed request or response.
type message struct {
	Start   string // method, target, or status; and the minor version
	Host    string
	Header  http.Header
	Options []string // of Connection, in lower case
	Body    string
	Trailer http.Header
	Persist bool
}

// relayed has the requests that weir accepted from a connection, and its output to the upstreams.
type relayed struct {
	seen []message
	out  []byte // of the complete ones
	rest int    // bytes of the connection behind them
	end  string // why it read no further
}

// relayRequests handles a connection like a client's goroutine, but without connections.
func relayRequests(t *testing.T, in *stream) (r relayed) {
	out := new(sink)
	for len(r.seen) < 8 {
		b, err := ReadHead(in)
		if err != nil {
			r.end = err.Error()
			break
		}
		var h Head
		if err := h.ParseRequest(b); err != nil {
			r.end = err.Error()
			break
		}
		method := string(h.Method)
		authority, path, refusal := h.Absolute(method)
		if _, err := limit.ParseTarget(string(authority), 80); method == "CONNECT" || refusal != nil || err != nil || !IsHost(authority) {
			r.end = "not for an upstream"
			break
		}
		m := message{Start: fmt.Sprintf("%s %s 1.%d", method, h.Target, h.Minor), Host: string(authority), Header: headerOf(&h), Persist: h.Persists()}
		for _, f := range h.Fields {
			if f.Kind == fieldConnection {
				m.Options = append(m.Options, optionsOf(string(f.Value))...)
			}
		}
		forward := h.AppendRequest(nil, authority, path, -1, false, "n1")
		in.Skip(len(b))
		content := RequestBody(in, &h)
		before := len(out.written())
		out.Set(append(out.Writable(), forward...))
		readErr, writeErr := content.CopyTo(out, content.Framing == FramedChunked, new(atomic.Uint64))
		if readErr != nil || writeErr != nil {
			r.end = fmt.Sprint(readErr, writeErr)
			break
		}
		r.out = out.written()
		// The caller parses the output; this is the content as weir read it.
		m.Body, m.Trailer = contentOf(t, r.out[before+len(forward):], content)
		r.seen, r.rest = append(r.seen, m), len(in.Bytes())
	}
	return r
}

// contentOf parses the output behind a head.
func contentOf(t *testing.T, b []byte, content Body) (string, http.Header) {
	if content.Framing != FramedChunked {
		return string(b), nil
	}
	m, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b))))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(m.Body)
	if err != nil {
		t.Fatalf("%q went out as a chunked body: %v", b, err)
	}
	for name := range m.Trailer {
		if kindOf([]byte(name)) != fieldOther {
			t.Fatalf("%q: %s goes out in the trailers", b, name)
		}
	}
	return string(got), trailersOf(m.Trailer)
}

// optionsOf splits a list naively.
func optionsOf(value string) (list []string) {
	for _, o := range strings.Split(strings.ToLower(value), ",") {
		if o = strings.Trim(o, " \t"); o != "" {
			list = append(list, o)
		}
	}
	return list
}

// trailersOf returns the received trailer fields that may be forwarded, without those that were
// only announced.
func trailersOf(h http.Header) http.Header {
	h = h.Clone()
	for name, values := range h {
		if values == nil || kindOf([]byte(name)) != fieldOther {
			delete(h, name)
		}
	}
	return h
}

// standardRefusal names the rule by which net/http refuses a request that weir accepts, or "". In
// three cases weir leaves the decision to the origin; in one it repairs the request.
func standardRefusal(h *Head) string {
	target := string(h.Target)
	if string(h.Method) == "CONNECT" && !strings.HasPrefix(target, "/") {
		target = "http://" + target
	}
	if _, err := url.ParseRequestURI(target); err != nil {
		return "an escape or a port in the target that net/url can't read"
	}
	var length []byte
	for _, f := range h.Fields {
		if f.Kind == fieldContentLength {
			if length != nil && !bytes.Equal(f.Value, length) || bytes.IndexByte(f.Value, ',') >= 0 {
				return "one Content-Length, written more than once"
			}
			length = f.Value
		}
		if f.Kind != fieldTrailer {
			continue
		}
		for name := range strings.SplitSeq(string(f.Value), ",") {
			switch http.CanonicalHeaderKey(strings.TrimSpace(name)) {
			case "Transfer-Encoding", "Trailer", "Content-Length":
				return "Trailer names a field that can't be in one"
			}
		}
	}
	return ""
}

// standardRequests reads as many requests with net/http as weir has read.
func standardRequests(t *testing.T, data []byte, n int) (list []message, rest int, _ bool) {
	r := bufio.NewReader(bytes.NewReader(data))
	for range n {
		skipEmptyLines(r)
		m, err := http.ReadRequest(r)
		if err != nil {
			return nil, 0, false
		}
		content, err := io.ReadAll(m.Body)
		if err != nil {
			t.Fatalf("%q: net/http can't read the content: %v", data, err)
		}
		list = append(list, message{
			Start: fmt.Sprintf("%s %s 1.%d", m.Method, m.RequestURI, m.ProtoMinor), Host: m.Host, Header: comparable(m.Header),
			Body: string(content), Trailer: trailersOf(m.Trailer), Persist: !m.Close, Options: optionsOf(strings.Join(m.Header["Connection"], ",")),
		})
	}
	left, _ := io.ReadAll(r)
	return list, len(left), true
}

// skipEmptyLines does what RFC 9112 §2.2 asks of servers and net/http does not do.
func skipEmptyLines(r *bufio.Reader) {
	for {
		b, _ := r.Peek(2)
		switch {
		case len(b) > 0 && b[0] == '\n':
			r.Discard(1)
		case string(b) == "\r\n":
			r.Discard(2)
		default:
			return
		}
	}
}

// smuggled has shapes that some parsers read differently. weir accepts the given number of requests
// from the start of each, and never the hidden one.
var smuggled = []struct {
	in   string
	want int
}{
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://evil/ HTTP/1.1\r\nHost: evil\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 1},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\t5 ,5\r\nContent-Length: 5\r\n\r\nhelloGET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", 2},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\nContent-Length: 6\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 1},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\nHost: a\n\n", 1},
	{"\n\nGET http://a/ HTTP/1.1\nHost: a\r\n\nGET http://b/ HTTP/1.1\r\nHost: b\n\r\n", 2},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\nhelloGET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", 2},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length : 5\r\n\r\nhello", 0},
	{"GET http://a/ HTTP/1.1\r\r\nHost: a\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\nHost: a\n X: y\n\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nX\x00: y\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\nHost: a/../b\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1\r\n\r\n", 0},
	{"GET http://a/x y HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"GET http://a/ HTTP/1.1 \r\nHost: a\r\n\r\n", 0},
	{"GET http://a/ HTTP/2.0\r\nHost: a\r\n\r\n", 0},
	{"GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 0},
	{"GET http://a\\@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", 1},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n fold\r\n\r\n", 0},
	{"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 7\r\nX: y\r\n\r\n", 1},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding, X\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
	{"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nGETGET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", 2},
	{"\r\n\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET http://b/ HTTP/1.0\r\n\r\n", 2},
}

func TestSmugglingShapes(t *testing.T) {
	for _, c := range smuggled {
		got := relayRequests(t, arriving([]byte(c.in), len(c.in)))
		if len(got.seen) != c.want || bytes.Contains(got.out, []byte("evil")) {
			t.Errorf("%q: %d requests, want %d; then %q", c.in, len(got.seen), c.want, got.end)
		}
		checkRequests(t, []byte(c.in), 1)
	}
}

// FuzzRequestStream: for any bytes, in pieces of any size, weir reads the requests that net/http
// reads, with the same content, ending at the same bytes; and the upstream reads the same ones from
// weir's output.
func FuzzRequestStream(f *testing.F) {
	for i, c := range smuggled {
		f.Add([]byte(c.in), uint8(i))
	}
	f.Add([]byte("PUT http://a.example:81?q HTTP/1.1\r\nHost: x\r\nConnection: close, te, x-y\r\nX-Y: 1\r\nTE: trailers\r\nTrailer: T\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\nHost: w\r\n\r\nGET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n"), uint8(3))
	f.Add([]byte("GET http://a/ HTTP/1.1\r\nhost: x\r\nExpect: 100-continue\r\nUpgrade: websocket\r\nConnection: upgrade\r\nMax-Forwards: 3\r\n"+
		"Proxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nVia: 1.1 z\r\nContent-Length: 0\r\n\r\n"), uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		if len(data) <= 8<<10 { // beyond 16 KiB of chunk extensions net/http gives up
			checkRequests(t, data, int(piece)+1)
		}
	})
}

func checkRequests(t *testing.T, data []byte, piece int) {
	t.Helper()
	got := relayRequests(t, arriving(data, max(len(data), 1)))
	cut := relayRequests(t, arriving(data, piece))
	if d := cmp.Diff(got.seen, cut.seen); d != "" {
		t.Fatalf("%q (then %s) reads otherwise in pieces of %d (then %s):\n%s", data, got.end, piece, cut.end, d)
	}
	want, rest, ok := standardRequests(t, data, len(got.seen))
	if !ok {
		if justified(data, len(got.seen)) {
			return
		}
		t.Fatalf("%q: weir reads %d requests, net/http refuses one", data, len(got.seen))
	}
	for i := range want {
		// net/http prefers the target's authority to Host, as weir does.
		if want[i].Persist && !got.seen[i].Persist {
			want[i].Persist = want[i].Header.Get("Proxy-Connection") == "" // its "close" counts here
		}
		if d := cmp.Diff(want[i], got.seen[i], cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%q: request %d (-net/http +weir):\n%s", data, i, d)
		}
	}
	if len(got.seen) > 0 && rest != got.rest {
		t.Fatalf("%q: %d bytes are behind the requests, for net/http %d", data, got.rest, rest)
	}
	checkUpstream(t, data, got)
	checkUpstream(t, data, cut)
}

// justified reports whether one of the requests that weir accepts is refused by net/http for a
// known rule.
func justified(data []byte, n int) bool {
	in := offline(data)
	for range n {
		b, err := ReadHead(in)
		var h Head
		if err != nil || h.ParseRequest(b) != nil {
			return false
		}
		if standardRefusal(&h) != "" {
			return true
		}
		in.Skip(len(b))
		content := RequestBody(in, &h)
		for err == nil {
			_, err = content.next()
		}
	}
	return false
}

// checkUpstream parses the output to the upstreams with net/http.
func checkUpstream(t *testing.T, data []byte, sent relayed) {
	t.Helper()
	got, rest, ok := standardRequests(t, sent.out, len(sent.seen))
	if !ok || rest != 0 {
		t.Fatalf("%q: goes out as %q, which are not %d requests: %d bytes are left", data, sent.out, len(sent.seen), rest)
	}
	for i, m := range got {
		orig := sent.seen[i]
		method, _, _ := strings.Cut(orig.Start, " ")
		if !strings.HasPrefix(m.Start, method+" /") && m.Start != "OPTIONS * 1.1" || !strings.HasSuffix(m.Start, " 1.1") {
			t.Fatalf("%q: %s goes out as %s", data, orig.Start, m.Start)
		}
		if m.Host != orig.Host || m.Body != orig.Body || cmp.Diff(m.Trailer, orig.Trailer, cmpopts.EquateEmpty()) != "" {
			t.Fatalf("%q: goes out as %+v, want %+v", data, m, orig)
		}
		if d := cmp.Diff(endToEnd(orig.Header, orig.Options), endToEnd(m.Header, orig.Options), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%q: fields (-in +out):\n%s", data, d)
		}
		checkHops(t, m.Header)
		if via := m.Header.Values("Via"); len(via) == 0 || !strings.HasSuffix(via[len(via)-1], " n1") {
			t.Fatalf("%q: goes out with Via %q", data, via)
		}
	}
}

// checkHops reports fields that must not be forwarded.
func checkHops(t *testing.T, h http.Header) {
	t.Helper()
	for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Upgrade"} {
		if h[name] != nil {
			t.Fatalf("%s: %q goes out", name, h[name])
		}
	}
	if te := h["Te"]; te != nil && !slices.Equal(te, []string{"trailers"}) {
		t.Fatalf("TE: %q goes out", te)
	}
}

// endToEnd returns the fields that a proxy must not touch.
func endToEnd(h http.Header, options []string) http.Header {
	h = h.Clone()
	for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Upgrade", "Via", "Expect"} {
		h.Del(name)
	}
	for name := range h {
		if slices.Contains(options, strings.ToLower(name)) {
			delete(h, name)
		}
	}
	return h
}
