package sock

// Asking sends a request over a kept-alive connection.
//
// Waiting for a response needs one read that finds nothing. Doing it before the write detects a
// closed or misbehaving upstream without an extra system call.
type Asking struct {
	sock    *Conn
	asked   bool // the connection was silent, so the request was written as far as the window allowed
	blocked bool // the window allowed only a part
	try     func(fd uintptr) bool
}

// Ask writes a request to s and reads the first bytes of the answer into a pooled buffer, which
// belongs to the caller if err is nil. asked is false if the connection is useless; then nothing
// was written. n is 0, without an error, if no byte of the answer has come yet.
func (a *Asking) Ask(s *Conn, request []byte) (buf []byte, n int, asked bool, readErr, writeErr error) {
	if a.try == nil {
		a.try = a.tryAsk
	}
	w := &s.writing
	w.parts, w.err = [3][]byte{request}, nil
	a.sock, a.asked, a.blocked = s, false, false
	buf, n, readErr = s.readBy(nil, a.try)
	rest, writeErr := w.parts[0], w.err
	w.parts = [3][]byte{}
	if !a.asked {
		if readErr == nil {
			s.pool.Put(buf)
		}
		return nil, 0, false, nil, nil
	}
	if a.blocked {
		writeErr = s.Write(rest, nil, nil)
	}
	return buf, n, true, readErr, writeErr
}

// tryAsk reads, and writes the request after the first read, which must find nothing; false means
// that no answer has come yet.
func (a *Asking) tryAsk(fd uintptr) bool {
	s := a.sock
	if done := s.tryRead(fd); done || a.asked {
		return done
	}
	a.asked = true
	a.blocked = !s.tryWrite(fd)
	return a.blocked || s.writing.err != nil
}
