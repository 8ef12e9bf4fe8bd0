package server

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/api"
)

// Bounds of a node's log of events.
const (
	eventsKept   = 1000
	changesNoted = 100 // events of one write; a last one counts the others
)

// EventLog holds a node's events: its own, and those it has fetched from other nodes. The oldest
// are dropped. Events that every node sees by itself (leaders, members) are not fetched, so that
// each appears once.
type EventLog struct {
	node  string
	epoch string // distinguishes this process's numbers from another's
	now   func() time.Time

	mu      sync.Mutex
	last    uint64 // the newest entry's number
	entries []logEntry
	changed chan struct{} // closed and made anew with each entry
	health  map[string]string
	leader  string
}

// logEntry is one event in a node's log.
type logEntry struct {
	number uint64
	shared bool // recorded here, and other nodes can learn of it from this one only
	event  api.Event
}

// NewEventLog makes the log of the named node.
func NewEventLog(node string) *EventLog {
	return &EventLog{
		node: node, epoch: strconv.FormatInt(time.Now().UnixNano(), 36), now: time.Now,
		changed: make(chan struct{}), health: make(map[string]string),
	}
}

// Leader records who leads, as far as this node knows; "" is nobody. Repetitions are not recorded.
func (l *EventLog) Leader(name string, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == l.leader {
		return
	}
	text := name + " leads"
	if name == "" {
		text = "nobody leads"
	}
	l.leader = name
	l.add(false, api.Event{Type: "leader", Node: name, Term: term, Text: text})
}

// Member records a node's health, as this node sees it. Repetitions are not recorded.
func (l *EventLog) Member(name, role, health string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, known := l.health[name]
	if before == health {
		return
	}
	text := name + " is " + health
	switch {
	case health == "alive" && !known:
		text = name + " joined"
	case health == "alive":
		text = name + " is back"
	case health == "left":
		text = name + " left"
	}
	if !known && len(l.health) >= maxHealth {
		l.forgetHealth()
	}
	l.health[name] = health
	l.add(false, api.Event{Type: "member", Node: name, Role: role, Health: health, Text: text})
}

// maxHealth bounds the members whose health is remembered. A proxy may have a new name at each
// start.
const maxHealth = 8192

// forgetHealth makes room by forgetting members that are gone, or if that is not enough, all. A
// member that returns afterwards is recorded as having joined.
func (l *EventLog) forgetHealth() {
	for name, health := range l.health {
		if health == "left" || health == "dead" {
			delete(l.health, name)
		}
	}
	if len(l.health) >= maxHealth {
		clear(l.health)
	}
}

// Fenced records that this node can no longer prove its session, and how many connections it
// severed.
func (l *EventLog) Fenced(severed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("%s fenced: no proof of its session, %s severed", l.node, plural(severed, "connection"))
	l.add(true, api.Event{Type: "fence", Node: l.node, Severed: severed, Text: text})
}

// Drain records that this node has begun to drain, or accepts new work again.
func (l *EventLog) Drain(draining bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.node + " takes new work again"
	if draining {
		text = l.node + " is draining: it takes no new work"
	}
	l.add(true, api.Event{Type: "drain", Node: l.node, Text: text})
}

// Reclaimed records, on the leader, that a node's session has ended and the cluster has its slots
// back.
func (l *EventLog) Reclaimed(node string, session uint64, why string, slots int64, silent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("%s gave back %s", node, plural(int(slots), "slot"))
	switch why {
	case "expired":
		text = fmt.Sprintf("%s reclaimed from %s, silent for %s", plural(int(slots), "slot"), node, silent.Round(100*time.Millisecond))
	case "taken over":
		text = fmt.Sprintf("%s of %s's former process came back", plural(int(slots), "slot"), node)
	}
	l.add(true, api.Event{
		Type: "reclaim", Node: node, Session: session, Why: why, Slots: slots,
		Silent: api.Duration(silent.Round(time.Millisecond)), Text: text,
	})
}

// limits records, on the leader, the changes of one write.
func (l *EventLog) limits(by api.Author, index uint64, changes []api.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range changes {
		e := api.Event{Type: "limit", Node: by.Node, Index: index, By: &by, Change: &c, Text: changeText(c)}
		if more := len(changes) - i; i == changesNoted && more > 1 {
			e.Change, e.Text = nil, fmt.Sprintf("%s more changed by the same write", plural(more, "limit"))
			l.add(true, e)
			return
		}
		l.add(true, e)
	}
}

func changeText(c api.Change) string {
	switch c.Action {
	case "add":
		return fmt.Sprintf("limit on %s set: %s", c.Name(), c.After.Words())
	case "remove":
		return fmt.Sprintf("limit on %s deleted (was: %s)", c.Name(), c.Before.Words())
	}
	return fmt.Sprintf("limit on %s changed: %s, was %s", c.Name(), c.After.Words(), c.Before.Words())
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// add appends an event of this node. Needs the lock.
func (l *EventLog) add(shared bool, e api.Event) {
	e.Time, e.SeenBy = l.now().UTC().Round(time.Millisecond), l.node
	l.append(logEntry{shared: shared, event: e})
}

// append numbers an entry and drops the oldest if there are too many. Needs the lock.
func (l *EventLog) append(e logEntry) {
	l.last++
	e.number = l.last
	if len(l.entries) == eventsKept {
		l.entries = slices.Delete(l.entries, 0, 1)
	}
	l.entries = append(l.entries, e)
	close(l.changed)
	l.changed = make(chan struct{})
}

// take adds events of other nodes.
func (l *EventLog) take(events []api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		l.append(logEntry{event: e})
	}
}

// since returns the entries after a cursor, and a channel that is closed when there are more. A
// cursor of another process precedes all entries.
func (l *EventLog) since(cursor string) ([]logEntry, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	after := l.position(cursor)
	i, _ := slices.BinarySearchFunc(l.entries, after+1, func(e logEntry, n uint64) int { return cmp.Compare(e.number, n) })
	return slices.Clone(l.entries[i:]), l.changed
}

// cursor returns a position in the log, for others to keep.
func (l *EventLog) cursor(number uint64) string {
	return l.epoch + "-" + strconv.FormatUint(number, 10)
}

func (l *EventLog) position(cursor string) uint64 {
	epoch, number, _ := strings.Cut(cursor, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || epoch != l.epoch || n > l.last {
		return 0
	}
	return n
}

// own returns the events after a cursor that other nodes can learn from this one only, and the next
// cursor.
func (l *EventLog) own(cursor string) ([]api.Event, string) {
	entries, _ := l.since(cursor)
	events := []api.Event{}
	for _, e := range entries {
		if e.shared {
			events = append(events, e.event)
		}
	}
	if n := len(entries); n > 0 {
		cursor = l.cursor(entries[n-1].number)
	}
	return events, cursor
}
