package sock

import (
	"io"
	"time"
)

// Drained reads and drops the peer's remaining bytes, and reports whether its FIN came in time.
func Drained(s *Conn, timeout time.Duration) bool { return DrainedWhile(s, timeout, timeout) }

// DrainedWhile is Drained with two bounds: quiet for a pause between bytes, whole for the total.
func DrainedWhile(s *Conn, quiet, whole time.Duration) bool {
	end := time.Now().Add(whole)
	for {
		next := time.Now().Add(quiet)
		if next.After(end) {
			next = end
		}
		s.SetReadDeadline(next)
		buf, _, err := s.Read(nil)
		if err != nil {
			return err == io.EOF
		}
		s.pool.Put(buf)
	}
}
