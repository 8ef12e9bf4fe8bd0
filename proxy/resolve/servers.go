package resolve

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// lastFor is how long a server that failed is asked last. Raising it asks a server that has
	// recovered later again; no lookup waits for a server that is still dead, because the first
	// question after this time goes to another server too.
	lastFor = 30 * time.Second
	// unansweredBeforeLog is how many questions in a row a server leaves unanswered before the log
	// reports it: a single lost packet is no news.
	unansweredBeforeLog = 2
)

// server is one name server and how well it has answered.
type server struct {
	addr netip.AddrPort

	mu         sync.Mutex
	lastUntil  time.Time // until then it is asked last
	answeredAt time.Time // its latest answer
	unanswered int       // in a row
	reported   bool      // as not answering
	plain      bool      // does not understand EDNS
}

// news is a change that the log reports.
type news uint8

const (
	noNews news = iota
	newsSilent
	newsBack
)

// answered notes an answer, whatever it says, to a question that was asked at a time. One that took
// longer than patience leaves the server where it is in the order.
func (s *server) answered(asked, now time.Time) news {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answeredAt, s.unanswered = now, 0
	if now.Sub(asked) < patience {
		s.lastUntil = time.Time{}
	}
	if !s.reported {
		return noNews
	}
	s.reported = false
	return newsBack
}

// silent notes a question that got no answer. A server that has answered others since is not dead:
// it withholds this one.
func (s *server) silent(asked, now time.Time) news {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answeredAt.After(asked) {
		return noNews
	}
	s.lastUntil = now.Add(lastFor)
	if s.unanswered++; s.unanswered < unansweredBeforeLog || s.reported {
		return noNews
	}
	s.reported = true
	return newsSilent
}

// outdone notes that another server gave a good answer where this one gave none, or not for long.
func (s *server) outdone(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastUntil = now.Add(lastFor)
}

func (s *server) setPlain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plain = true
}

func (s *server) isPlain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plain
}

// turn is where a server stands in the order.
type turn uint8

const (
	turnNow   turn = iota
	turnLast       // it failed lately
	turnProbe      // it failed, and it is time to find out whether it is back
)

// take is the server's turn in a lookup. Of all lookups one gets turnProbe, once in each lastFor.
func (s *server) take(now time.Time) turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lastUntil.IsZero():
		return turnNow
	case now.Before(s.lastUntil):
		return turnLast
	}
	s.lastUntil = now.Add(lastFor)
	return turnProbe
}

// order is the order in which a question goes to servers, beginning at offset: those that failed
// come last. probes are asked along with the first, so that nobody waits for them. Where all have
// failed, the order is as given.
func order(servers []*server, offset int, now time.Time) (list, probes []*server) {
	var last []*server
	for i := range servers {
		s := servers[(offset+i)%len(servers)]
		switch s.take(now) {
		case turnNow:
			list = append(list, s)
		case turnProbe:
			probes = append(probes, s)
			last = append(last, s)
		default:
			last = append(last, s)
		}
	}
	if len(list) == 0 {
		return last, nil
	}
	return append(list, last...), probes
}
