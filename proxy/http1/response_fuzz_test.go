package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// relayResponse handles a response like an exchange, but without connections. It returns the bytes
// for the client, and whether they are complete.
func relayResponse(t *testing.T, in *stream, method string, minor int) (out []byte, status int, complete bool) {
	to := new(sink)
	for range 8 {
		b, err := ReadHead(in)
		var h Head
		if err != nil || h.ParseResponse(b) != nil || h.Status == http.StatusSwitchingProtocols {
			return nil, 0, false
		}
		if h.Status < 200 {
			in.Skip(len(b))
			continue
		}
		content := ResponseBody(in, &h, method)
		length := h.Length
		if h.Status == http.StatusNoContent {
			length = -1
		}
		chunked := minor > 0 && (content.Framing == FramedChunked || content.Framing == FramedClose)
		to.Set(h.AppendResponse(to.Writable(), chunked, length, KeepAlive{false, minor}, "n1"))
		in.Skip(len(b))
		readErr, writeErr := content.CopyTo(to, chunked, new(atomic.Uint64))
		return to.written(), h.Status, readErr == nil && writeErr == nil
	}
	return nil, 0, false
}

// laxChunks reports whether a line is folded, or has an extension with bytes that no field value
// may have. weir refuses both in chunked content (RFC 9112 §5.2, §7.1.1); net/http unfolds trailers
// and ignores extensions.
func laxChunks(data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, "\r\n")
		semicolon := bytes.IndexByte(line, ';')
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') || semicolon >= 0 && !isFieldValue(line[semicolon:]) {
			return true
		}
	}
	return false
}

// folds matches the end of a line that the next one continues.
var folds = regexp.MustCompile(`\r?\n[ \t]+`)

// relengthened reports whether data may have a Content-Length that is repeated.
func relengthened(data []byte) bool {
	return len(lengths.FindAll(data, 2)) > 1 || lengthList.Match(data)
}

var (
	lengths    = regexp.MustCompile(`(?im)^content-length[ \t]*:`)
	lengthList = regexp.MustCompile(`(?im)^content-length[ \t]*:[^\n]*,`)
)

// standardResponse reads the final response with net/http; err is about its head. rest is the
// number of bytes behind the response.
func standardResponse(data []byte, method string) (m message, rest int, readErr, err error) {
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		skipEmptyLines(r)
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return m, 0, nil, err
		}
		if resp.StatusCode < 200 {
			continue
		}
		content, readErr := io.ReadAll(resp.Body)
		unfolded := folds.ReplaceAll(data, []byte(" "))
		m = message{Start: fmt.Sprint(resp.StatusCode), Header: comparable(resp.Header), Body: string(content), Trailer: trailersOf(resp.Trailer)}
		for line := range strings.Lines(string(unfolded)) { // net/http drops them
			if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Connection") {
				m.Options = append(m.Options, optionsOf(strings.TrimRight(value, "\r\n"))...)
			}
		}
		left, _ := io.ReadAll(r)
		return m, len(left), readErr, nil
	}
}

// FuzzResponseStream: for any upstream bytes, in pieces of any size, the client reads the response
// that net/http reads there, complete or not, over HTTP/1.0 too.
func FuzzResponseStream(f *testing.F) {
	for i, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
		"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nConnection: X, close\r\nX: y\r\nKeep-Alive: 1\r\nVia: 1.1 z\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\n\r\n",
		"HTTP/1.1 200 OK\r\n Folded: x\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 20 OK\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\nServer: a\n b\r\n\tc\nContent-Length: 2, 2\n\nok", "HTTP/1.1 200 OK\r\nA : b\r\nTransfer-Encoding : chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: x,\r\n y\r\nY: 1\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 205 Reset\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(i), i%3 == 0, i%5 != 0)
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint8, isHead, http11 bool) {
		if len(data) > 8<<10 {
			return
		}
		method, minor := "GET", 0
		if isHead {
			method = "HEAD"
		}
		if http11 {
			minor = 1
		}
		_, status, _ := relayResponse(t, arriving(data, max(len(data), 1)), method, minor)
		out, cutStatus, complete := relayResponse(t, arriving(data, int(piece)+1), method, minor)
		if status != cutStatus {
			t.Fatalf("%q: status %d, in pieces of %d it is %d", data, status, piece, cutStatus)
		}
		if status == 0 {
			return
		}
		if spaced.Match(data) { // the fields that this is about are read otherwise by net/http
			if _, _, _, err := standardResponse(out, method); err != nil {
				t.Fatalf("%q goes out as %q: %v", data, out, err)
			}
			return
		}
		want, _, readErr, err := standardResponse(data, method)
		if err != nil {
			if strings.Contains(err.Error(), "trailer key") || relengthened(data) {
				return // rules of standardRefusal
			}
			t.Fatalf("%q is relayed, and net/http refuses it: %v", data, err)
		}
		got, rest, gotErr, err := standardResponse(out, method)
		if err != nil || complete && rest > 0 {
			t.Fatalf("%q goes out as %q: %v, and %d bytes behind it", data, out, err, rest)
		}
		checkHops(t, got.Header)
		if complete != (readErr == nil) && (complete || !laxChunks(data)) {
			t.Fatalf("%q: complete: %v; for net/http: %v", data, complete, readErr)
		}
		// The client can tell that a response broke off, by its framing or by a reset.
		framed := minor > 0 || strings.Contains(string(out), "\r\nContent-Length: ")
		if complete != (gotErr == nil) && framed && !isHead {
			t.Fatalf("%q goes out as %q: complete: %v; for the client: %v", data, out, complete, gotErr)
		}
		if got.Start != want.Start || complete && got.Body != want.Body || !strings.HasPrefix(want.Body, got.Body) {
			t.Fatalf("%q goes out as %q: (-in +out):\n%s", data, out, cmp.Diff(want, got))
		}
		if d := cmp.Diff(evened(endToEnd(want.Header, want.Options)), evened(endToEnd(got.Header, want.Options)), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%q goes out as %q: fields (-in +out):\n%s", data, out, d)
		}
		if complete && http11 && cmp.Diff(want.Trailer, got.Trailer, cmpopts.EquateEmpty()) != "" {
			t.Fatalf("%q goes out as %q: trailers %v, want %v", data, out, got.Trailer, want.Trailer)
		}
	})
}
