package http1

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

const (
	// MaxHead is the longest request or response head, first line included.
	MaxHead = 64 << 10
	// MaxFields is the most fields that a head may have, which bounds the memory that it takes
	// beside its bytes. Browsers send some twenty; servers accept between a hundred and any number.
	MaxFields = 1000
	// MaxNominated is the most names that Connection may have beside close and keep-alive. Each
	// field is compared with each of them. Real messages name a few.
	MaxNominated = 100
	// maxTrailers is the longest trailer section of a chunked body.
	maxTrailers = 16 << 10
	// MaxChunkLine is the longest chunk-size line, extensions included.
	MaxChunkLine = 4 << 10
)

var (
	// ErrTooLong means that a head or line exceeds its bound.
	ErrTooLong = errors.New("too long")
	// ErrTooMany means that a head has more than MaxFields, or Connection more than MaxNominated.
	ErrTooMany = errors.New("too many fields")
)

// Input is the bytes of a connection. It must be able to hold a head of [MaxHead].
type Input interface {
	// Bytes returns the unread bytes, valid until the next Fill or Skip.
	Bytes() []byte
	// Fill reads more bytes. At the peer's end its error is io.EOF.
	Fill() error
	// Skip drops n unread bytes.
	Skip(n int)
	// Pass is Skip, but the bytes stay valid until the next Fill or Skip.
	Pass(n int)
	// Pay waits until some of the next n bytes may be passed on, and returns how many.
	Pay(n int) (int, error)
}

// Output collects small pieces, so that heads, chunk sizes and short bodies go out in one write.
type Output interface {
	// Writable returns the buffer to append to; Set stores the result.
	Writable() []byte
	Set(b []byte)
	// Flush writes the collected bytes.
	Flush() error
	// Send writes the collected bytes, p and end.
	Send(p, end []byte) error
	// Err returns the error of a Flush that took place during a Fill of the input.
	Err() error
}

// ReadHead reads until a whole message head is in hand and returns it, including its empty line.
// The bytes stay in hand. io.EOF means that the peer ended before a first byte, a SyntaxError that
// this is no HTTP.
func ReadHead(in Input) ([]byte, error) {
	line := 0 // start of the incomplete line
	for {
		b := in.Bytes()
		for {
			i := bytes.IndexByte(b[line:], '\n')
			if i < 0 {
				break
			}
			// RFC 9112 §2.2: a line may end with LF alone, and an empty line before the first one
			// is ignored.
			empty := i == 0 || i == 1 && b[line] == '\r'
			switch {
			case empty && line == 0:
				in.Skip(i + 1)
				b = in.Bytes()
				continue
			case empty:
				return b[:line+i+1], nil
			}
			line += i + 1
		}
		if len(b) > 0 && !isTokenChar(b[0]) && b[0] != '\r' {
			return nil, ErrNotHTTP
		}
		if len(b) >= MaxHead {
			return nil, ErrTooLong
		}
		if err := in.Fill(); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// readLine reads and consumes one line of at most limit bytes, including its CR. It returns the
// line without CR LF, valid until the next fill.
func readLine(in Input, limit int) ([]byte, error) {
	from := 0
	for {
		b := in.Bytes()
		if i := bytes.IndexByte(b[from:], '\n'); i >= 0 {
			end := from + i
			if end == 0 || b[end-1] != '\r' {
				return nil, errBareLF
			}
			if end > limit {
				return nil, ErrTooLong
			}
			in.Pass(end + 1)
			return b[:end-1], nil
		}
		from = len(b)
		if len(b) > limit {
			return nil, ErrTooLong
		}
		if err := in.Fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

// unexpected turns io.EOF into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// smallPiece is the largest piece that is copied to go out together with its neighbours.
const (
	smallPiece = 4 << 10
	// maxCollected bounds what is collected for one write.
	maxCollected = 32 << 10
)

// sendPiece sends a piece of a body, as one chunk if chunked. A small piece waits for the next
// flush.
func sendPiece(out Output, p []byte, chunked bool) error {
	b := out.Writable()
	if chunked {
		b = strconv.AppendUint(b, uint64(len(p)), 16)
		b = append(b, "\r\n"...)
	}
	if len(p) <= smallPiece && len(b)+len(p) < maxCollected-2 {
		b = append(b, p...)
		if chunked {
			b = append(b, "\r\n"...)
		}
		out.Set(b)
		return nil
	}
	var end []byte
	if chunked {
		end = crlf
	}
	out.Set(b)
	return out.Send(p, end)
}

// sendLast sends the last piece of a body. Its end, or all of it, waits for the next flush.
func sendLast(out Output, p []byte) error {
	if len(out.Writable())+len(p) >= maxCollected {
		now := max(len(p)-smallPiece, 0)
		if err := out.Send(p[:now], nil); err != nil {
			return err
		}
		p = p[now:]
	}
	out.Set(append(out.Writable(), p...))
	return nil
}
