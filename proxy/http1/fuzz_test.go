package http1

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// held is an input that holds all of its bytes.
type held struct{ rest []byte }

func (h *held) Bytes() []byte          { return h.rest }
func (h *held) Fill() error            { return io.EOF }
func (h *held) Skip(n int)             { h.rest = h.rest[n:] }
func (h *held) Pass(n int)             { h.rest = h.rest[n:] }
func (h *held) Pay(n int) (int, error) { return n, nil }

// offline returns an input that holds data and gets no more.
func offline(data []byte) *held { return &held{slices.Clone(data)} }

// headerOf returns the fields as net/http would, except framing and Host.
func headerOf(h *Head) http.Header {
	header := http.Header{}
	for _, f := range h.Fields {
		header.Add(string(f.Name), string(f.Value))
	}
	return comparable(header)
}

// comparable removes the fields that net/http keeps elsewhere, or adds.
func comparable(h http.Header) http.Header {
	h = maps.Clone(h)
	for _, name := range []string{"Host", "Transfer-Encoding", "Content-Length", "Trailer", "Cache-Control", "Connection"} {
		delete(h, name)
	}
	return h
}

// net/http reads every accepted request as the same one. The request made for the upstream is valid
// again, without hop-by-hop fields.
func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		"GET http://a.example/b?c HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
		"\r\nPOST http://a:80 HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive, X\r\nX: y\r\n\r\nabc",
		"CONNECT [::1]:443 HTTP/1.1\r\n\r\n",
		"PUT http://a/ HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n",
		"GET http://a/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nVia: 1.1 n1\r\n\r\n",
		"GET http://a/ HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
		"GET ws://a/ HTTP/1.1\nHost: x\r\nUpgrade: a\nConnection: upgrade\nUpgrade: b\n\n",
		"PUT http://a/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc",
		"GET http://a/ HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eA==\r\nTE: gzip, trailers\r\nConnection: te\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := offline(data)
		b, err := ReadHead(in)
		if err != nil {
			return
		}
		var h Head
		if h.ParseRequest(b) != nil {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			if standardRefusal(&h) == "" {
				t.Fatalf("net/http refuses %q: %v", b, err)
			}
			return
		}
		if string(h.Method) != want.Method || string(h.Target) != want.RequestURI || h.Minor != want.ProtoMinor {
			t.Fatalf("%q: read as %s %s 1.%d, by net/http as %s %s %s", b, h.Method, h.Target, h.Minor, want.Method, want.RequestURI, want.Proto)
		}
		if d := cmp.Diff(comparable(want.Header), headerOf(&h)); d != "" {
			t.Fatalf("%q: fields differ from net/http's: %s", b, d)
		}
		length := max(h.Length, 0)
		if h.Chunked {
			length = -1
		}
		if length != want.ContentLength || h.Chunked != (len(want.TransferEncoding) > 0) {
			t.Fatalf("%q: content length %d, chunked %v; net/http says %d, %q", b, length, h.Chunked, want.ContentLength, want.TransferEncoding)
		}
		if target := want.URL; !target.IsAbs() && want.Method != "CONNECT" && string(h.Host) != want.Host {
			t.Fatalf("%q: Host %q, net/http says %q", b, h.Host, want.Host)
		}
		checkForwarded(t, &h)
	})
}

// checkForwarded checks the request for the upstream.
func checkForwarded(t *testing.T, h *Head) {
	authority, path, refusal := h.Absolute(string(h.Method))
	if refusal != nil || !IsHost(authority) {
		return
	}
	out := h.AppendRequest(nil, authority, path, -1, h.Upgrade != nil, "n1")
	var again Head
	if b, err := ReadHead(offline(out)); err != nil || len(b) != len(out) {
		t.Fatalf("%q is not one head: %v", out, err)
	}
	if err := again.ParseRequest(out); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if again.Length != h.Length || again.Chunked != h.Chunked || !bytes.Equal(again.Host, authority) {
		t.Fatalf("%q: framing or host changed", out)
	}
	for _, f := range again.Fields {
		switch f.Kind {
		case fieldKeepAlive, fieldProxyConnection, fieldProxyAuthorization, fieldProxyAuthenticate:
			t.Fatalf("%q: %s is passed on", out, f.Name)
		case fieldOther:
			if h.nominates(strings.ToLower(string(f.Name))) {
				t.Fatalf("%q: %s is passed on though Connection names it", out, f.Name)
			}
		}
	}
	if !again.PassedThrough("n1") {
		t.Fatalf("%q: no Via", out)
	}
}

// spaced matches a field with space before its colon, which net/http counts as part of the name.
var spaced = regexp.MustCompile("(?m)^([0-9A-Za-z!#$%&'*+.^_`|~-]+)[ \t]+:")

// evened matches a run of spaces, to be replaced by one: unfolding changes their number.
func evened(h http.Header) http.Header {
	for _, values := range h {
		for i, v := range values {
			values[i] = strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == '\t' }), " ")
		}
	}
	return h
}

// net/http reads every accepted response as the same one.
func FuzzResponseHead(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.0 404\r\nServer: x\r\n\r\n", "HTTP/1.1 304 \r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nTrailer: X\r\n\r\n",
		"HTTP/1.1 200 OK\nA : b\n c\r\n\td\nContent-Length\t: 5\n\n", "HTTP/1.1 200 OK\r\nA\r\n : b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n \r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ReadHead(offline(data))
		if err != nil {
			return
		}
		var h Head
		given := spaced.ReplaceAll(b, []byte("$1:")) // before it is repaired in place
		if h.ParseResponse(b) != nil {
			return
		}
		b = given
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), &http.Request{Method: "GET"})
		if err != nil {
			if strings.Contains(err.Error(), "trailer key") || relengthened(b) {
				return
			}
			t.Fatalf("net/http refuses %q: %v", b, err)
		}
		if h.Status != want.StatusCode || h.Minor != want.ProtoMinor {
			t.Fatalf("%q: read as %d 1.%d, by net/http as %d %s", b, h.Status, h.Minor, want.StatusCode, want.Proto)
		}
		if d := cmp.Diff(evened(comparable(want.Header)), evened(headerOf(&h))); d != "" {
			t.Fatalf("%q: fields differ from net/http's: %s", b, d)
		}
		content := ResponseBody(nil, &h, "GET")
		length := content.Left
		if content.Framing == FramedChunked || content.Framing == FramedClose {
			length = -1
		}
		if length != want.ContentLength {
			t.Fatalf("%q: content length %d, net/http says %d", b, length, want.ContentLength)
		}
	})
}

var blankBeforeExtension = regexp.MustCompile(`(?m)^[0-9A-Fa-f]+[ \t]+;`)

// net/http decodes every accepted chunked body to the same bytes and trailers.
func FuzzChunkedBody(f *testing.F) {
	for _, seed := range []string{"0\r\n\r\n", "4 ;x\r\nbody\r\n0\t;\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n", "a;x=\"y\"\r\n0123456789\r\n000\r\nT: v\r\n\r\nGET ", "4\nbody\r\n0\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := offline(data)
		got, content, ok := readChunks(in)
		pieces, _, fine := readChunks(arriving(data, len(data)%7+1))
		if ok != fine || ok && !bytes.Equal(got, pieces) {
			t.Fatalf("%q: decoded to %q, %v, and in pieces of %d to %q, %v", data, got, ok, len(data)%7+1, pieces, fine)
		}
		if !ok {
			return
		}
		r := bufio.NewReader(bytes.NewReader(data))
		want, err := io.ReadAll(httputil.NewChunkedReader(r))
		if err != nil && blankBeforeExtension.Match(data) {
			return // RFC 9112 §7.1.1 allows it, net/http does not
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q: decoded to %q, by net/http to %q, %v", data, got, want, err)
		}
		trailer, err := textproto.NewReader(r).ReadMIMEHeader()
		if err != nil {
			t.Fatalf("%q: net/http refuses the trailers: %v", data, err)
		}
		for line := range strings.Lines(string(content.trailers)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
			if !slices.Contains(trailer[textproto.CanonicalMIMEHeaderKey(name)], value) {
				t.Fatalf("%q: trailer %q is not in %v", data, line, trailer)
			}
		}
		rest, _ := io.ReadAll(r)
		if !bytes.Equal(rest, in.Bytes()) {
			t.Fatalf("%q: %q is left, for net/http %q", data, in.Bytes(), rest)
		}
	})
}

// readChunks reads a chunked body to its end.
func readChunks(in Input) (got []byte, content Body, ok bool) {
	content = Body{in: in, Framing: FramedChunked}
	for {
		p, err := content.next()
		if err != nil {
			return got, content, err == io.EOF
		}
		got = append(got, p...)
	}
}

// Parsing and checking a request's head.
func BenchmarkParseRequest(b *testing.B) {
	in := offline([]byte("GET http://api.example.com/v1/things?limit=10 HTTP/1.1\r\nHost: api.example.com\r\n" +
		"User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n"))
	var h Head
	b.ReportAllocs()
	for b.Loop() {
		head, err := ReadHead(in)
		if err == nil {
			err = h.ParseRequest(head)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// A head of the longest size costs about as much as its bytes, whatever is in it, and leaves little
// memory behind.
func TestCostlyHeads(t *testing.T) {
	const start, host = "GET http://h/ HTTP/1.1\r\n", "Host: h\r\n"
	names := strings.Repeat("a,", MaxNominated)
	fields := func(n int) string { return strings.Repeat("b:\n", n) }
	for _, c := range []struct {
		name, fields string
		want         error
	}{
		{"many fields", fields(MaxFields - 1), nil},
		{"too many fields", fields(MaxFields), ErrTooMany},
		{"many names", "Connection: " + names + "close\r\n" + fields(MaxFields-2), nil},
		{"too many names", "Connection: " + names + "a\r\n", ErrTooMany},
		{"too many names, in many fields", strings.Repeat("Connection: a\r\n", MaxNominated+1), ErrTooMany},
		{"as many of both as fit", "Connection: " + strings.Repeat("a,", 16000) + "\r\n" + fields(10800), ErrTooMany},
		{"close and keep-alive are no names", strings.Repeat("Connection: close, keep-alive\r\n", MaxFields-1), nil},
	} {
		request, response := start+host+c.fields+"\r\n", "HTTP/1.1 200 OK\r\n"+"Server: s\r\n"+c.fields+"\r\n"
		var h Head
		if err := h.ParseRequest([]byte(request)); err != c.want {
			t.Errorf("%s: request: %v, want %v", c.name, err, c.want)
		}
		if most := 2 * MaxFields; cap(h.Fields) > most || cap(h.nominated) > most {
			t.Errorf("%s: room for %d fields and %d names", c.name, cap(h.Fields), cap(h.nominated))
		}
		if err := h.ParseResponse([]byte(response)); err != c.want {
			t.Errorf("%s: response: %v, want %v", c.name, err, c.want)
		}
		h.Clear()
		if cap(h.Fields) > maxKept || cap(h.nominated) > maxKept {
			t.Errorf("%s: Clear keeps %d fields and %d names", c.name, cap(h.Fields), cap(h.nominated))
		}
	}
}

// Clear lets go of the bytes that the fields were in.
func TestClearKeepsNoBytes(t *testing.T) {
	var h Head
	if err := h.ParseRequest([]byte("GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	h.Clear()
	for _, f := range h.Fields[:cap(h.Fields)] {
		if f.Name != nil || f.Value != nil {
			t.Errorf("the field %q is kept", f.Name)
		}
	}
	if names := h.nominated[:cap(h.nominated)]; cap(h.Fields) < 2 || cap(names) < 1 || names[0] != nil {
		t.Errorf("room for %d fields, names %q", cap(h.Fields), names)
	}
}

// A list over many lines is joined once.
func TestManyUpgrades(t *testing.T) {
	const n = 900
	var h Head
	head := []byte("GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\n" + strings.Repeat("Upgrade: "+strings.Repeat("u", 50)+"\r\n", n) + "\r\n")
	if got := testing.AllocsPerRun(1, func() {
		if err := h.ParseRequest(head); err != nil {
			t.Fatal(err)
		}
	}); got > 50 {
		t.Errorf("%v allocations", got)
	}
	if want := n*52 - 2; len(h.Upgrade) != want {
		t.Errorf("%d bytes, want %d", len(h.Upgrade), want)
	}
}

// Lines that are folded many times are looked at once.
func BenchmarkFoldedResponse(b *testing.B) {
	head := []byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("x", 30<<10) + ":" + strings.Repeat("\n ", 15<<10) + "\r\n\r\n")
	var h Head
	for b.Loop() {
		if err := h.ParseResponse(bytes.Clone(head)); err != nil {
			b.Fatal(err)
		}
	}
}

// The costliest head that is accepted: each field is compared with each name.
func BenchmarkCostlyHead(b *testing.B) {
	head := []byte("GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: " + strings.Repeat("aaaaaaaa,", MaxNominated) + "\r\n" +
		strings.Repeat("aaaaaaab:\n", MaxFields-2) + "\r\n")
	var h Head
	var out []byte
	for b.Loop() {
		if err := h.ParseRequest(head); err != nil {
			b.Fatal(err)
		}
		out = h.AppendRequest(out[:0], []byte("h"), []byte("/"), -1, false, "n1")
	}
}

// The refusal names the field, but not its value.
func TestFieldsAreNamed(t *testing.T) {
	const secret = "s3cret\x01"
	for line, want := range map[string]string{
		"X-Key: " + secret:             `a control character in the header field "X-Key"`,
		"X-Key : " + secret:            `a space before the colon of the header field "X-Key"`,
		"X Key: " + secret:             `malformed name of the header field "X"`,
		"X-Key " + secret:              `no colon behind the header field "X-Key"`,
		": " + secret:                  `malformed name of the header field ""`,
		strings.Repeat("x", 60) + " y": `no colon behind the header field "` + strings.Repeat("x", maxNamedField) + `"`,
		"X-Key: a\r\n " + secret:       `a second line of the header field "X-Key"`,
	} {
		var h Head
		err := h.ParseRequest([]byte("GET http://a/ HTTP/1.1\r\nHost: a\r\n" + line + "\r\n\r\n"))
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
	}
}

// Eight bytes at once are judged as each of them is.
func TestControlCharactersAmongEight(t *testing.T) {
	for c := range 256 {
		for other := range 256 {
			for at := range 8 {
				b := bytes.Repeat([]byte{byte(other)}, 8)
				b[at] = byte(c)
				want := slices.ContainsFunc(b, func(c byte) bool { return c < ' ' || c == 0x7f })
				if got := hasControl(binary.LittleEndian.Uint64(b)); got != want {
					t.Fatalf("%q: %t, want %t", b, got, want)
				}
			}
		}
	}
}
