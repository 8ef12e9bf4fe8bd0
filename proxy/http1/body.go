package http1

import (
	"io"
	"sync/atomic"
)

// Framing says how a message's body ends (RFC 9112 §6.3).
type Framing uint8

const (
	FramedNone    Framing = iota // no body
	FramedLength                 // Content-Length
	FramedChunked                // the last chunk
	FramedClose                  // the end of the connection; responses only
)

// Body decodes a message's content, one piece at a time.
type Body struct {
	in      Input
	Framing Framing
	Left    int64 // of the length, or of the chunk
	inChunk bool  // a chunk's CRLF is still to come
	Done    bool
	// Complete, if not nil, is set after the last byte has been read and before it is passed on.
	Complete *atomic.Bool
	// trailers are the trailer fields, as lines to be forwarded.
	trailers []byte
}

// RequestBody is the body of the request h, whose bytes follow in in.
func RequestBody(in Input, h *Head) Body {
	switch {
	case h.Chunked:
		return Body{in: in, Framing: FramedChunked}
	case h.Length > 0:
		return Body{in: in, Framing: FramedLength, Left: h.Length}
	}
	return Body{in: in, Done: true}
}

// ResponseBody is the body of the response h to a request with the method.
func ResponseBody(in Input, h *Head, method string) Body {
	switch {
	case method == "HEAD" || h.Status < 200 || h.Status == 204 || h.Status == 304:
		return Body{in: in, Done: true}
	case h.Chunked:
		return Body{in: in, Framing: FramedChunked}
	case h.Length >= 0:
		return Body{in: in, Framing: FramedLength, Left: h.Length, Done: h.Length == 0}
	}
	return Body{in: in, Framing: FramedClose}
}

// Buffered reports whether the whole body is in hand already.
func (b *Body) Buffered() bool {
	return b.Done || b.Framing == FramedLength && b.Left <= int64(len(b.in.Bytes()))
}

// next returns the next piece, valid until the following call, or io.EOF after the last. It reads
// from the socket only when no bytes are in hand.
func (b *Body) next() ([]byte, error) {
	if b.Done {
		return nil, io.EOF
	}
	if b.Framing == FramedChunked && b.Left == 0 {
		if err := b.nextChunk(); err != nil {
			return nil, err
		}
		if b.Done {
			return nil, io.EOF
		}
	}
	if len(b.in.Bytes()) == 0 {
		err := b.in.Fill()
		if err == io.EOF && b.Framing == FramedClose {
			b.Done = true
			return nil, io.EOF
		}
		if err != nil {
			return nil, unexpected(err)
		}
	}
	p := b.in.Bytes()
	if b.Framing != FramedClose {
		p = p[:min(int64(len(p)), b.Left)]
	}
	n, err := b.in.Pay(len(p))
	if err != nil {
		return nil, unexpected(err)
	}
	p = p[:n]
	if b.Framing != FramedClose {
		b.Left -= int64(len(p))
		if b.Framing == FramedLength && b.Left == 0 {
			b.finish()
		}
	}
	b.in.Pass(len(p))
	return p, nil
}

func (b *Body) finish() {
	b.Done = true
	if b.Complete != nil {
		b.Complete.Store(true)
	}
}

// nextChunk reads up to the next chunk's data, or through the trailer section.
func (b *Body) nextChunk() error {
	if b.inChunk {
		line, err := readLine(b.in, 1)
		if err != nil || len(line) > 0 {
			return chunkError(err)
		}
	}
	line, err := readLine(b.in, MaxChunkLine)
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
	b.Left, b.inChunk = size, true
	return nil
}

// chunkError is err as one about the message, where it is not one of the connection.
func chunkError(err error) error {
	if err == nil || err == ErrTooLong || err == errBareLF {
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
func (b *Body) readTrailers() error {
	for total := 0; ; {
		line, err := readLine(b.in, maxTrailers-total)
		if err == ErrTooLong || err == errBareLF {
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
		f, err := parseField(line, false)
		if err != nil || total > maxTrailers || isSpace(line[0]) {
			return errTrailer
		}
		// RFC 9110 §6.5.1: no framing, routing or hop-by-hop fields in trailers.
		if f.Kind == fieldOther {
			b.trailers = appendField(b.trailers, f.Name, f.Value)
		}
	}
}

// CopyTo sends the body on, as chunks where chunked, and counts the bytes sent. The end of it stays
// in out: whoever gets it knows that the message is over.
func (b *Body) CopyTo(out Output, chunked bool, sent *atomic.Uint64) (readErr, writeErr error) {
	for {
		p, err := b.next()
		if err := out.Err(); err != nil {
			return nil, err
		}
		if err == io.EOF {
			b.in.Skip(0)
			if chunked {
				w := append(out.Writable(), "0\r\n"...)
				w = append(w, b.trailers...)
				out.Set(append(w, "\r\n"...))
			}
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
		if b.Done && !chunked {
			err = sendLast(out, p)
		} else {
			err = sendPiece(out, p, chunked)
		}
		if err != nil {
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
