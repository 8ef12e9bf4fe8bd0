package proxy

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
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/limit"
)

// descriptor is a syscall.RawConn for any file descriptor. Each read is preceded by one piece of
// the input; the input's end follows the last.
type descriptor struct {
	fd     int
	feed   int // the pipe's other end, -1 without one
	pieces [][]byte
}

func (d *descriptor) Control(f func(uintptr)) error { f(uintptr(d.fd)); return nil }

func (d *descriptor) Write(f func(uintptr) bool) error { f(uintptr(d.fd)); return nil }

func (d *descriptor) Read(f func(uintptr) bool) error {
	if len(d.pieces) > 0 {
		if _, err := unix.Write(d.feed, d.pieces[0]); err != nil {
			return err
		}
		d.pieces = d.pieces[1:]
	} else if d.feed >= 0 {
		unix.Close(d.feed)
		d.feed = -1
	}
	f(uintptr(d.fd))
	return nil
}

// arriving returns an inbuf that receives data in pieces of n bytes, and then a FIN.
func arriving(t *testing.T, data []byte, n int) *inbuf {
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		t.Fatal(err)
	}
	d := &descriptor{fd: ends[0], feed: ends[1], pieces: slices.Collect(slices.Chunk(data, n))}
	t.Cleanup(func() {
		unix.Close(d.fd)
		if d.feed >= 0 {
			unix.Close(d.feed)
		}
	})
	return &inbuf{sock: onDescriptor(d)}
}

func onDescriptor(d *descriptor) *sock {
	s := &sock{raw: d, pool: new(bufferPool)}
	s.tryReadFunc, s.tryWriteFunc = s.tryRead, s.tryWrite
	return s
}

// sink is an outbuf whose output can be read.
type sink struct {
	outbuf
	fd int
}

func newSink(t *testing.T) *sink {
	fd := newMemoryFile(t)
	t.Cleanup(func() { unix.Close(fd) })
	return &sink{outbuf{sock: onDescriptor(&descriptor{fd: fd, feed: -1})}, fd}
}

// written returns the whole output.
func (s *sink) written(t *testing.T) []byte {
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size)
	if _, err := unix.Pread(s.fd, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
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
func relayRequests(t *testing.T, in *inbuf) (r relayed) {
	out := newSink(t)
	for len(r.seen) < 8 {
		b, err := in.head()
		if err != nil {
			r.end = err.Error()
			break
		}
		var h head
		if err := h.parseRequest(b); err != nil {
			r.end = err.Error()
			break
		}
		method := string(h.method)
		authority, path, refusal := h.absolute(method)
		if _, err := limit.ParseTarget(string(authority), 80); method == "CONNECT" || refusal != nil || err != nil || !isHost(authority) {
			r.end = "not for an upstream"
			break
		}
		m := message{Start: fmt.Sprintf("%s %s 1.%d", method, h.target, h.minor), Host: string(authority), Header: headerOf(&h), Persist: h.persists()}
		for _, f := range h.fields {
			if f.kind == fieldConnection {
				m.Options = append(m.Options, optionsOf(string(f.value))...)
			}
		}
		forward := h.appendRequest(nil, authority, path, -1, false, "n1")
		in.skip(len(b))
		content := requestBody(in, &h)
		before := len(out.written(t))
		out.set(append(out.writable(), forward...))
		if readErr, writeErr := content.copyTo(&out.outbuf, content.framing == framedChunked, new(atomic.Uint64), nil); readErr != nil || writeErr != nil {
			r.end = fmt.Sprint(readErr, writeErr)
			break
		}
		r.out = out.written(t)
		// The caller parses the output; this is the content as weir read it.
		m.Body, m.Trailer = contentOf(t, r.out[before+len(forward):], content)
		r.seen, r.rest = append(r.seen, m), in.len()
	}
	in.release()
	return r
}

// contentOf parses the output behind a head.
func contentOf(t *testing.T, b []byte, content body) (string, http.Header) {
	if content.framing != framedChunked {
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
func standardRefusal(h *head) string {
	target := string(h.target)
	if string(h.method) == "CONNECT" && !strings.HasPrefix(target, "/") {
		target = "http://" + target
	}
	if _, err := url.ParseRequestURI(target); err != nil {
		return "an escape or a port in the target that net/url can't read"
	}
	var length []byte
	for _, f := range h.fields {
		if f.kind == fieldContentLength {
			if length != nil && !bytes.Equal(f.value, length) || bytes.IndexByte(f.value, ',') >= 0 {
				return "one Content-Length, written more than once"
			}
			length = f.value
		}
		if f.kind != fieldTrailer {
			continue
		}
		for name := range strings.SplitSeq(string(f.value), ",") {
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
		got := relayRequests(t, arriving(t, []byte(c.in), len(c.in)))
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
	got := relayRequests(t, arriving(t, data, max(len(data), 1)))
	cut := relayRequests(t, arriving(t, data, piece))
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
		b, err := in.head()
		var h head
		if err != nil || h.parseRequest(b) != nil {
			return false
		}
		if standardRefusal(&h) != "" {
			return true
		}
		in.skip(len(b))
		content := requestBody(in, &h)
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
