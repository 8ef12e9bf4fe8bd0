package proxy

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

// errTooLong means that a head or line exceeds its bound.
var errTooLong = errors.New("too long")

// inbuf reads a socket through one pooled buffer, which it holds only while it has unread bytes.
type inbuf struct {
	sock *sock
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	// unpaid is how many of the unread bytes were read without the socket's meter and are to be taken
	// from it before they are passed on: the first ones.
	unpaid int
	// before, if not nil, is called before each read of the socket. A read may wait, and output
	// that depends on the bytes in hand, such as a head that waits for the first piece of its body,
	// must not wait with it.
	before beforeReader
}

// beforeReader is called before a read that may wait. Its error is returned in the read's place.
type beforeReader interface{ beforeRead() error }

// bytes returns the unread bytes, valid until the next fill.
func (in *inbuf) bytes() []byte { return in.buf[in.r:in.w] }

func (in *inbuf) len() int { return in.w - in.r }

// skip drops n unread bytes.
func (in *inbuf) skip(n int) {
	in.r += n
	if in.r == in.w {
		in.release()
	}
}

// release gives the buffer back and drops what is in it.
func (in *inbuf) release() {
	if in.buf != nil {
		in.sock.pool.put(in.buf)
	}
	in.buf, in.r, in.w, in.unpaid = nil, 0, 0, 0
}

// fill reads more bytes. The buffer grows beyond the pooled size up to maxHead; then fill fails
// with errTooLong.
func (in *inbuf) fill() error {
	if in.before != nil {
		if err := in.before.beforeRead(); err != nil {
			return err
		}
	}
	in.unpaid = min(in.unpaid, in.len())
	if in.r == in.w { // wait without a buffer
		in.release()
		buf, n, err := in.sock.readPaced(nil)
		if err != nil {
			return err
		}
		in.buf, in.r, in.w = buf, 0, n
		return nil
	}
	if in.w == len(in.buf) {
		switch {
		case in.r > 0:
			copy(in.buf, in.buf[in.r:in.w])
		case len(in.buf) < maxHead:
			grown := make([]byte, maxHead)
			copy(grown, in.buf)
			in.sock.pool.put(in.buf)
			in.buf = grown
		default:
			return errTooLong
		}
		in.r, in.w = 0, in.w-in.r
	}
	_, n, err := in.sock.readPaced(in.buf[in.w:])
	in.w += n
	return err
}

// take puts the first n bytes of a pooled buffer in hand. There must be none before.
func (in *inbuf) take(buf []byte, n int) {
	if n == 0 {
		in.sock.pool.put(buf)
		return
	}
	in.buf, in.r, in.w = buf, 0, n
}

// head reads until a whole message head is in hand and returns it, including its empty line. The
// bytes stay in hand. io.EOF means that the peer ended before a first byte, a syntaxError that this
// is no HTTP.
func (in *inbuf) head() ([]byte, error) {
	line := 0 // start of the incomplete line
	for {
		b := in.bytes()
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
				in.skip(i + 1)
				b = in.bytes()
				continue
			case empty:
				return b[:line+i+1], nil
			}
			line += i + 1
		}
		if len(b) > 0 && !isTokenChar(b[0]) && b[0] != '\r' {
			return nil, errNotHTTP
		}
		if len(b) >= maxHead {
			return nil, errTooLong
		}
		if err := in.fill(); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// line reads and consumes one line of at most limit bytes, including its CR. It returns the line
// without CR LF, valid until the next fill.
func (in *inbuf) line(limit int) ([]byte, error) {
	from := 0
	for {
		b := in.bytes()
		if i := bytes.IndexByte(b[from:], '\n'); i >= 0 {
			end := from + i
			if end == 0 || b[end-1] != '\r' {
				return nil, errBareLF
			}
			if end > limit {
				return nil, errTooLong
			}
			// No skip here: it could release the buffer that the line is in.
			in.r += end + 1
			return b[:end-1], nil
		}
		from = len(b)
		if len(b) > limit {
			return nil, errTooLong
		}
		if err := in.fill(); err != nil {
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

// outbuf collects small pieces for a socket, so that heads, chunk sizes and short bodies go out in
// one write.
type outbuf struct {
	sock *sock
	buf  []byte
	err  error // of beforeRead's flush
}

// writable returns the buffer to append to; set stores the result.
func (o *outbuf) writable() []byte {
	if o.buf == nil {
		o.buf = o.sock.pool.get()[:0]
	}
	return o.buf
}

func (o *outbuf) set(b []byte) { o.buf = b }

// flush writes the collected bytes.
func (o *outbuf) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.sock.write(o.buf, nil, nil)
	o.release()
	return err
}

// beforeRead implements [beforeReader].
func (o *outbuf) beforeRead() error {
	o.err = o.flush()
	return o.err
}

// release gives the buffer back and drops what is in it.
func (o *outbuf) release() {
	if o.buf != nil {
		o.sock.pool.put(o.buf)
	}
	o.buf = nil
}

// smallPiece is the largest piece that is copied to go out together with its neighbours.
const smallPiece = 4 << 10

// payload sends a piece of a body, as one chunk if chunked. A small piece waits for the next flush.
func (o *outbuf) payload(p []byte, chunked bool) error {
	b := o.writable()
	if chunked {
		b = strconv.AppendUint(b, uint64(len(p)), 16)
		b = append(b, "\r\n"...)
	}
	if len(p) <= smallPiece && len(b)+len(p) < bufSize-2 {
		b = append(b, p...)
		if chunked {
			b = append(b, "\r\n"...)
		}
		o.set(b)
		return nil
	}
	var end []byte
	if chunked {
		end = crlf
	}
	o.set(b)
	err := o.sock.write(b, p, end)
	o.release()
	return err
}
