package proxy

import (
	"io"
	"sync/atomic"
)

// framing says how a message's body ends (RFC 9112 §6.3).
type framing uint8

const (
	framedNone    framing = iota // no body
	framedLength                 // Content-Length
	framedChunked                // the last chunk
	framedClose                  // the end of the connection; responses only
)

// body decodes a message's content, one piece at a time.
type body struct {
	in      *inbuf
	framing framing
	left    int64 // of the length, or of the chunk
	inChunk bool  // a chunk's CRLF is still to come
	done    bool
	// complete, if not nil, is set after the last byte has been read and before it is passed on.
	complete *atomic.Bool
	// trailers are the trailer fields, as lines to be forwarded.
	trailers []byte
}

// requestBody is the body of the request h, whose bytes follow in in.
func requestBody(in *inbuf, h *head) body {
	switch {
	case h.chunked:
		return body{in: in, framing: framedChunked}
	case h.length > 0:
		return body{in: in, framing: framedLength, left: h.length}
	}
	return body{in: in, done: true}
}

// responseBody is the body of the response h to a request with the method.
func responseBody(in *inbuf, h *head, method string) body {
	switch {
	case method == "HEAD" || h.status < 200 || h.status == 204 || h.status == 304:
		return body{in: in, done: true}
	case h.chunked:
		return body{in: in, framing: framedChunked}
	case h.length >= 0:
		return body{in: in, framing: framedLength, left: h.length, done: h.length == 0}
	}
	return body{in: in, framing: framedClose}
}

// buffered reports whether the whole body is in hand already.
func (b *body) buffered() bool {
	return b.done || b.framing == framedLength && b.left <= int64(b.in.len())
}

// next returns the next piece, valid until the following call, or io.EOF after the last. It reads
// from the socket only when no bytes are in hand.
func (b *body) next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	if b.framing == framedChunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return nil, err
		}
		if b.done {
			return nil, io.EOF
		}
	}
	if b.in.len() == 0 {
		err := b.in.fill()
		if err == io.EOF && b.framing == framedClose {
			b.done = true
			return nil, io.EOF
		}
		if err != nil {
			return nil, unexpected(err)
		}
	}
	p := b.in.bytes()
	if b.framing != framedClose {
		p = p[:min(int64(len(p)), b.left)]
	}
	if b.in.unpaid > 0 {
		n, err := b.in.pay(len(p))
		if err != nil {
			return nil, unexpected(err)
		}
		p = p[:n]
	}
	if b.framing != framedClose {
		b.left -= int64(len(p))
		if b.framing == framedLength && b.left == 0 {
			b.finish()
		}
	}
	// Not skip: the buffer must outlive the piece.
	b.in.r += len(p)
	return p, nil
}

func (b *body) finish() {
	b.done = true
	if b.complete != nil {
		b.complete.Store(true)
	}
}

// nextChunk reads up to the next chunk's data, or through the trailer section.
func (b *body) nextChunk() error {
	if b.inChunk {
		line, err := b.in.line(1)
		if err != nil || len(line) > 0 {
			return chunkError(err)
		}
	}
	line, err := b.in.line(maxChunkLine)
	if err != nil {
		return chunkError(err)
	}
	size, ok := parseChunkSize(line)
	if !ok {
		return errChunk
	}
	if size == 0 {
		return b.readTrailers()
	}
	b.left, b.inChunk = size, true
	return nil
}

// chunkError is err as one about the message, where it is not one of the connection.
func chunkError(err error) error {
	if err == nil || err == errTooLong || err == errBareLF {
		return errChunk
	}
	return err
}

// parseChunkSize reads 1 to 15 hex digits, and passes over extensions (RFC 9112 §7.1.1), which end
// here.
func parseChunkSize(line []byte) (int64, bool) {
	var n int64
	i := 0
	for ; i < len(line); i++ {
		d := hexDigit(line[i])
		if d < 0 {
			break
		}
		n = n<<4 | int64(d)
	}
	if i == 0 || i > 15 || !isFieldValue(line) {
		return 0, false
	}
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return n, i == len(line) || line[i] == ';'
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// readTrailers reads through the empty line, and keeps the fields that may go on.
func (b *body) readTrailers() error {
	for total := 0; ; {
		line, err := b.in.line(maxTrailers - total)
		if err == errTooLong || err == errBareLF {
			return errTrailer
		}
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.finish()
			return nil
		}
		total += len(line) + 2
		f, err := parseField(line)
		if err != nil || total > maxTrailers || isSpace(line[0]) {
			return errTrailer
		}
		// RFC 9110 §6.5.1: no framing, routing or hop-by-hop fields in trailers.
		if f.kind == fieldOther {
			b.trailers = appendField(b.trailers, f.name, f.value)
		}
	}
}

// copyTo sends the body on, as chunks where chunked, and counts the bytes sent. The bytes of a
// message that is over are flushed. What is collected goes out before each read. The meter, which
// may be nil, paces what is read from the socket, and what is in hand already.
func (b *body) copyTo(out *outbuf, chunked bool, sent *atomic.Uint64, meter Meter) (readErr, writeErr error) {
	b.in.before, out.err = out, nil
	if b.in.sock.meter = meter; meter != nil {
		b.in.unpaid = b.in.len()
	}
	readErr, writeErr = b.copyPieces(out, chunked, sent)
	b.in.before, b.in.sock.meter, b.in.unpaid = nil, nil, 0
	return readErr, writeErr
}

func (b *body) copyPieces(out *outbuf, chunked bool, sent *atomic.Uint64) (readErr, writeErr error) {
	for {
		p, err := b.next()
		if out.err != nil {
			return nil, out.err
		}
		if err == io.EOF {
			b.in.skip(0)
			if chunked {
				w := append(out.writable(), "0\r\n"...)
				w = append(w, b.trailers...)
				out.set(append(w, "\r\n"...))
			}
			return nil, out.flush()
		}
		if err != nil {
			return err, nil
		}
		if err := out.payload(p, chunked); err != nil {
			return nil, err
		}
		sent.Add(uint64(len(p)))
	}
}

// appendField appends one line.
func appendField(dst, name, value []byte) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}
