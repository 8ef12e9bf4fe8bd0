package proxy

// asking is a request on its way over a kept-alive connection.
//
// Whoever waits for an answer reads in vain first. Here that read comes before the request is
// written, not after it: so it costs nothing to find out that the upstream has closed the
// connection meanwhile, and that it holds no bytes that nobody asked for and that would be taken
// for the answer.
type asking struct {
	sock    *sock
	asked   bool // the connection was silent: the request has been written, as far as the window let it
	blocked bool // the window let only a part
	try     func(fd uintptr) bool
}

// ask writes a request to s and reads the first bytes of the answer into a pooled buffer, the
// caller's unless err is not nil. asked false says that the connection is of no use, and nothing
// has been written. Without a byte and an error, the answer is still to be waited for.
func (a *asking) ask(s *sock, request []byte) (buf []byte, n int, asked bool, readErr, writeErr error) {
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
			s.pool.put(buf)
		}
		return nil, 0, false, nil, nil
	}
	if a.blocked {
		writeErr = s.write(rest, nil, nil)
	}
	return buf, n, true, readErr, writeErr
}

// tryAsk reports false where there is no answer yet.
func (a *asking) tryAsk(fd uintptr) bool {
	s := a.sock
	if done := s.tryRead(fd); done || a.asked {
		return done
	}
	a.asked = true
	a.blocked = !s.tryWrite(fd)
	return a.blocked || s.writing.err != nil
}
