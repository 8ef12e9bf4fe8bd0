package proc

import (
	"bytes"
	"io"
	"sync"
)

// maxLine bounds what a Prefixer keeps of a line that has not ended; longer lines are broken.
const maxLine = 64 << 10

// Screen is one writer that several Prefixers share, a whole line at a time.
type Screen struct {
	mu sync.Mutex
	w  io.Writer
}

// NewScreen writes to w.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Write writes p in one piece.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// Prefixer puts a prefix before each line of one program's output.
type Prefixer struct {
	screen *Screen
	prefix []byte

	mu   sync.Mutex
	part []byte // a line that has not ended
}

// NewPrefixer writes to screen; prefix goes in as it is, colour codes included.
func NewPrefixer(screen *Screen, prefix string) *Prefixer {
	return &Prefixer{screen: screen, prefix: []byte(prefix)}
}

// Write writes the lines that p completes and keeps the rest.
func (w *Prefixer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, p...)
	var out []byte
	for {
		end := bytes.IndexByte(w.part, '\n')
		if end < 0 && len(w.part) <= maxLine {
			break
		}
		line, rest := w.part, []byte(nil)
		if end >= 0 {
			line, rest = w.part[:end], w.part[end+1:]
		}
		out = append(append(append(out, w.prefix...), line...), '\n')
		w.part = rest
	}
	if len(out) > 0 {
		if _, err := w.screen.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Flush writes a last line that did not end.
func (w *Prefixer) Flush() error {
	w.mu.Lock()
	open := len(w.part) > 0
	w.mu.Unlock()
	if !open {
		return nil
	}
	_, err := w.Write([]byte("\n"))
	return err
}
