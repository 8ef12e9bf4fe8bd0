package cluster

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestContacts(t *testing.T) {
	t.Parallel()
	born := time.Now()
	at := func(seconds int) time.Time { return born.Add(time.Duration(seconds) * time.Second) }
	type hears struct {
		term uint64
		at   int
	}
	for what, c := range map[string]struct {
		heard  []hears
		leads  uint64
		ended  int // when the work as that leader ended; 0: it has not
		term   uint64
		want   int
		unsure bool
	}{
		"nobody, since the start":              {term: 5, want: 0},
		"an earlier leader":                    {heard: []hears{{4, 1}, {4, 3}}, term: 5, want: 3},
		"the asking one":                       {heard: []hears{{4, 1}, {5, 2}, {5, 9}}, term: 5, want: 1},
		"two earlier ones":                     {heard: []hears{{3, 1}, {4, 2}, {5, 9}}, term: 5, want: 2},
		"an earlier one that comes late":       {heard: []hears{{5, 1}, {4, 2}}, term: 5, want: 2},
		"a newer one: any of them may be":      {heard: []hears{{4, 1}, {6, 2}}, term: 5, want: 2},
		"the asking one is the first":          {heard: []hears{{5, 4}}, term: 5, want: 0},
		"itself":                               {leads: 4, ended: 7, term: 5, want: 7},
		"itself, and then another":             {leads: 3, ended: 2, heard: []hears{{4, 5}}, term: 5, want: 5},
		"itself, whose work has not ended":     {leads: 4, term: 5, unsure: true},
		"itself in the term that it asks for":  {heard: []hears{{4, 1}}, leads: 5, term: 5, want: 1},
		"itself, twice, and again":             {heard: []hears{{4, 1}}, leads: 4, ended: 3, term: 5, want: 3},
		"times that come in another order":     {heard: []hears{{4, 3}, {4, 2}}, term: 5, want: 3},
		"terms and times in another order":     {heard: []hears{{4, 3}, {5, 2}, {6, 1}}, term: 6, want: 3},
		"its own work ends after the election": {heard: []hears{{5, 6}}, leads: 4, ended: 8, term: 5, want: 8},
	} {
		k := &contacts{former: born}
		if c.leads > 0 {
			k.begin(c.leads)
		}
		for _, h := range c.heard {
			k.heard(h.term, at(h.at))
		}
		if c.ended > 0 {
			k.end(c.leads, at(c.ended))
		}
		got, known := k.before(c.term)
		if known == c.unsure {
			t.Errorf("%s: known %v", what, known)
		} else if known && !got.Equal(at(c.want)) {
			t.Errorf("%s: %v after the start, want %d s", what, got.Sub(born), c.want)
		}
	}
}

func TestElectorate(t *testing.T) {
	t.Parallel()
	three := raft.Configuration{Servers: []raft.Server{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "n", Suffrage: raft.Nonvoter}}}
	e := &electorate{}
	e.note(5, three, 4)
	if got := e.of(5); !slices.Equal(got, []raft.ServerID{"a", "b", "c"}) {
		t.Errorf("%v, want the voters", got)
	}
	if got := e.of(4); got != nil {
		t.Errorf("%v in another term", got)
	}
	e.note(6, three, 6)
	if got := e.of(6); got != nil {
		t.Errorf("%v, although the configuration is of the term itself", got)
	}
}

func lastLed(t *testing.T, n *testNode) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ago, err := n.LastLed(ctx, n.leads())
	if err != nil {
		t.Fatalf("%s: %v", n.cfg.Name, err)
	}
	return ago
}

// TestLastLed: after a leader was killed, its successor learns when at the latest it was verified;
// what it says to its followers itself does not count.
func TestLastLed(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	verified := time.Now() // or later: it led at some moment after the call
	if err := leader.VerifyLeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	leader.kill()
	killed := time.Now()
	next := waitLeader(t, others(leader, nodes)...)
	elected := time.Now()
	ago := lastLed(t, next)
	if most := time.Since(verified); ago > most {
		t.Errorf("nobody is said to have led for %v; the former leader was verified %v ago", ago, most)
	}
	least := elected.Sub(killed) * 9 / 10
	eventually(t, 10*time.Second, "the gap", func() bool { return lastLed(t, next) >= time.Since(killed)*9/10 })
	t.Logf("elected %v after the kill; nobody led for %v then", elected.Sub(killed), ago)
	if ago < least {
		t.Errorf("somebody is said to have led %v ago; the leader was killed %v before the election", ago, elected.Sub(killed))
	}
	if _, err := next.LastLed(t.Context(), next.leads()-1); err == nil {
		t.Error("an answer for another term")
	}
	if _, err := next.lastContact(next.leads() + 1); err == nil {
		t.Error("a server answers for a term that it has not reached")
	}
}

// TestLastLedNeedsAMajority: a server alone knows nothing, and one that has restarted since cannot
// know of what it answered before.
func TestLastLedNeedsAMajority(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	rest := others(leader, nodes)
	rest[1].kill()
	began := time.Now()
	returned := startNode(t, rest[1].cfg.Name, rest[1].path, joining(leader, rest[0]))
	eventually(t, 10*time.Second, "the follower is back", func() bool {
		name, _ := returned.Leader()
		return name == leader.cfg.Name
	})
	if err := leader.Transfer(t.Context(), rest[0].cfg.Name); err != nil {
		t.Fatal(err)
	}
	next := waitLeader(t, leader, rest[0], returned)
	if ago, most := lastLed(t, next), time.Since(began); ago > most {
		t.Errorf("nobody is said to have led for %v; it was %v at most", ago, most)
	}
	term := next.leads()
	leader.kill()
	returned.kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if ago, err := next.LastLed(ctx, term); err == nil {
		t.Errorf("alone it says that nobody led for %v", ago)
	}
}

// TestLastLedAlone: the only server of a cluster has answered nobody since it started.
func TestLastLedAlone(t *testing.T) {
	t.Parallel()
	began := time.Now()
	n := startNode(t, "a", filepath.Join(t.TempDir(), "a"), expecting(1))
	waitLeader(t, n)
	if ago, most := lastLed(t, n), time.Since(began); ago > most {
		t.Errorf("nobody is said to have led for %v; it was %v at most", ago, most)
	}
}
