// Package lognoise bounds the log lines that recur: the same line about a peer is due once in half
// a minute, and the lines that strangers can cause are few, however many strangers there are.
package lognoise

import (
	"cmp"
	"sync"
	"time"
)

const (
	every   = 30 * time.Second
	maxKeys = 1024
	// maxLines bounds the lines about all peers together within every.
	maxLines = 64
	// maxStrangers bounds those that strangers cause, on each port.
	maxStrangers = 8
)

// Said records when each line was last logged. The zero Said is for lines about peers.
type Said struct {
	mu    sync.Mutex
	last  map[string]time.Time
	since time.Time // the lines are counted since then
	lines int
	most  int // in every; 0: maxLines
}

// AtMost returns a Said for that many lines in half a minute.
func AtMost(lines int) *Said { return &Said{most: lines} }

// Strangers is for lines that anybody who reaches a port can cause.
func Strangers() *Said { return AtMost(maxStrangers) }

// Due reports whether a line is to be logged now, and counts it if so. Lines with the same key are
// the same.
func (s *Said) Due(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[key]; ok && now.Sub(last) < every {
		return false
	}
	if now.Sub(s.since) >= every {
		s.since, s.lines = now, 0
	}
	if s.lines >= cmp.Or(s.most, maxLines) {
		return false
	}
	s.lines++
	if s.last == nil || len(s.last) >= maxKeys {
		s.last = make(map[string]time.Time)
	}
	s.last[key] = now
	return true
}

// Reminder decides when a recurring text is logged: when it is new, and at intervals.
type Reminder struct {
	Every time.Duration
	text  string
	last  time.Time
}

// Due reports whether a text is to be logged now.
func (r *Reminder) Due(text string) bool {
	now := time.Now()
	if text == r.text && now.Sub(r.last) < r.Every {
		return false
	}
	r.text, r.last = text, now
	return true
}
