package upstream

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMeter(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	m := newMeter(start)
	m.opened(at(1), 1, "10.0.0.1")
	m.opened(at(2), 2, "10.0.0.2")
	m.ended(at(4), 1, "10.0.0.1", at(3), true)

	// One open for 1 s, two for 2 s, one for 4 s, over 8 s.
	want := Stats{
		Open: 1, Peak: 2, Accepted: 2, Resets: 1, Mean: 9.0 / 8, Over: 8 * time.Second,
		Peers: map[string]Count{"10.0.0.1": {Peak: 1, Accepted: 1}, "10.0.0.2": {Open: 1, Peak: 1, Accepted: 1}},
	}
	if diff := cmp.Diff(want, m.stats(at(8))); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	wantEvents := []Event{
		{At: at(1), Conn: 1, Peer: "10.0.0.1", Opened: true, Open: 1},
		{At: at(2), Conn: 2, Peer: "10.0.0.2", Opened: true, Open: 2},
		{At: at(4), Conn: 1, Peer: "10.0.0.1", Open: 1, Heard: at(3)},
	}
	if diff := cmp.Diff(wantEvents, m.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestMeterRestartKeepsWhatIsOpen(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMeter(start)
	m.opened(start, 1, "a")
	m.opened(start, 2, "b")
	m.ended(start, 2, "b", time.Time{}, false)
	m.restart(start.Add(time.Second))

	want := Stats{Open: 1, Peak: 1, Mean: 1, Over: time.Second, Peers: map[string]Count{"a": {Open: 1, Peak: 1}}}
	if diff := cmp.Diff(want, m.stats(start.Add(2*time.Second))); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	if len(m.events) != 0 {
		t.Errorf("%d events survive a restart", len(m.events))
	}
}

func TestMeterBoundsItsTimeline(t *testing.T) {
	m := newMeter(time.Unix(0, 0))
	m.events = make([]Event, maxEvents)
	m.opened(time.Unix(1, 0), 1, "a")
	if len(m.events) != maxEvents || m.dropped != 1 {
		t.Errorf("%d events kept and %d dropped; want %d and 1", len(m.events), m.dropped, maxEvents)
	}
}

// A judge that reads what was asked and taken can know whether that is all.
func TestMeterTellsWhatItDidNotNote(t *testing.T) {
	m := newMeter(time.Unix(0, 0))
	m.asked, m.taken = make([]time.Time, maxEvents-1), make([]Chunk, maxEvents)
	m.request(time.Unix(1, 0))
	m.request(time.Unix(2, 0))
	m.took(time.Unix(2, 0), 1, 100)
	if got := m.stats(time.Unix(3, 0)).Unnoted; got != 2 || len(m.asked) != maxEvents || len(m.taken) != maxEvents {
		t.Errorf("%d unnoted, %d requests and %d chunks kept; want 2 and twice %d", got, len(m.asked), len(m.taken), maxEvents)
	}
	m.restart(time.Unix(3, 0))
	if got := m.stats(time.Unix(4, 0)).Unnoted; got != 0 {
		t.Errorf("%d unnoted in a new period", got)
	}
}
