package upstream

import "time"

// maxEvents bounds a timeline; at 96 bytes an event it is 96 MiB at most.
const maxEvents = 1 << 20

// Stats is what a server has counted since it started, or since the last Reset.
type Stats struct {
	Open     int              // connections open now
	Peak     int              // most connections open at one instant
	Accepted uint64           // connections accepted
	Resets   uint64           // connections whose peer ended them with a reset
	Mean     float64          // time-weighted mean of the open connections over Over
	Over     time.Duration    // what Mean, Peak and the totals cover
	Peers    map[string]Count // by the peer's address, without its port
	Unnoted  uint64           // lines, requests and chunks that Asked and Taken had no room for
}

// Chunk is some bytes that a connection has brought.
type Chunk struct {
	At   time.Time
	Conn uint64 // as in Event
	N    int
}

// Count is the share of one peer address in Stats.
type Count struct {
	Open     int
	Peak     int
	Accepted uint64
}

// Event is one opening or end of a connection.
type Event struct {
	At     time.Time
	Conn   uint64    // numbered from 1 in the order of acceptance
	Peer   string    // the peer's address, without its port
	Opened bool      // false: it ended
	Open   int       // connections open right after the event
	Heard  time.Time // of an end: when the connection's last byte came from the peer; zero if none did
}

// meter counts. It is pure: time is an argument and the caller locks.
type meter struct {
	open, peak int
	accepted   uint64
	resets     uint64
	peers      map[string]*Count

	since   time.Time // start of the period
	last    time.Time // up to here area is complete
	area    float64   // connection-seconds since the period began
	events  []Event
	dropped uint64      // events that did not fit
	asked   []time.Time // requests, at most maxEvents
	taken   []Chunk     // likewise
	unnoted uint64      // requests and chunks that did not fit
}

func newMeter(now time.Time) *meter {
	return &meter{peers: map[string]*Count{}, since: now, last: now}
}

func (m *meter) opened(now time.Time, conn uint64, peer string) {
	m.advance(now)
	m.open++
	m.peak = max(m.peak, m.open)
	m.accepted++
	c := m.peers[peer]
	if c == nil {
		c = &Count{}
		m.peers[peer] = c
	}
	c.Open++
	c.Peak = max(c.Peak, c.Open)
	c.Accepted++
	m.record(Event{At: now, Conn: conn, Peer: peer, Opened: true, Open: m.open})
}

func (m *meter) ended(now time.Time, conn uint64, peer string, heard time.Time, reset bool) {
	m.advance(now)
	m.open--
	m.peers[peer].Open--
	if reset {
		m.resets++
	}
	m.record(Event{At: now, Conn: conn, Peer: peer, Open: m.open, Heard: heard})
}

// restart begins a new period. What is open stays open and is the new period's first peak.
func (m *meter) restart(now time.Time) {
	m.peak, m.accepted, m.resets = m.open, 0, 0
	for peer, c := range m.peers {
		if c.Open == 0 {
			delete(m.peers, peer)
			continue
		}
		c.Peak, c.Accepted = c.Open, 0
	}
	m.since, m.last, m.area = now, now, 0
	m.events, m.dropped, m.asked, m.taken, m.unnoted = nil, 0, nil, nil, 0
}

func (m *meter) stats(now time.Time) Stats {
	m.advance(now)
	s := Stats{
		Open: m.open, Peak: m.peak, Accepted: m.accepted, Resets: m.resets,
		Over: now.Sub(m.since), Peers: make(map[string]Count, len(m.peers)), Unnoted: m.unnoted,
	}
	if s.Over > 0 {
		s.Mean = m.area / s.Over.Seconds()
	}
	for peer, c := range m.peers {
		s.Peers[peer] = *c
	}
	return s
}

func (m *meter) advance(now time.Time) {
	m.area += float64(m.open) * now.Sub(m.last).Seconds()
	m.last = now
}

func (m *meter) record(e Event) {
	if len(m.events) == maxEvents {
		m.dropped++
		return
	}
	m.events = append(m.events, e)
}

func (m *meter) request(now time.Time) {
	if len(m.asked) == maxEvents {
		m.unnoted++
		return
	}
	m.asked = append(m.asked, now)
}

func (m *meter) took(now time.Time, conn uint64, n int) {
	if len(m.taken) == maxEvents {
		m.unnoted++
		return
	}
	m.taken = append(m.taken, Chunk{At: now, Conn: conn, N: n})
}
