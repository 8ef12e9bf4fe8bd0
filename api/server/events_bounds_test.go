package server

import (
	"fmt"
	"testing"
)

// What is remembered of members by name is bounded: a proxy may have a new name at each start.
func TestMembersOfEventsAreBounded(t *testing.T) {
	for _, health := range []string{"left", "dead", "alive"} {
		l := NewEventLog("a")
		l.Member("here", "server", "alive")
		for i := range maxHealth + 100 {
			name := fmt.Sprint("node-", i)
			l.Member(name, "proxy", "alive")
			l.Member(name, "proxy", health)
		}
		if n := len(l.health); n > maxHealth {
			t.Errorf("%s: the health of %d is remembered", health, n)
		}
		if health != "alive" && l.health["here"] != "alive" {
			t.Errorf("%s: a member that is there is forgotten", health)
		}
	}
}

func TestCursorsAreBounded(t *testing.T) {
	wr := &watcher{cursors: map[string]string{"here": "1"}}
	for i := range 3 * maxCursors {
		wr.cursors[fmt.Sprint("node-", i)] = "1"
		wr.forgetCursors(func(node string) bool { return node == "here" })
	}
	if n := len(wr.cursors); n > maxCursors || wr.cursors["here"] == "" {
		t.Errorf("%d cursors are remembered, of the node that is there: %q", n, wr.cursors["here"])
	}
}
