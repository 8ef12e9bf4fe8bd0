package judge

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/e2e/upstream"
)

var begin = time.Unix(1000, 0)

func at(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

// The peers' addresses are their nodes' names in capitals.
func open(ms int, conn uint64, peer string) upstream.Event {
	return upstream.Event{At: at(ms), Conn: conn, Peer: peer, Opened: true}
}

func end(ms int, conn uint64, peer string, heard int) upstream.Event {
	return upstream.Event{At: at(ms), Conn: conn, Peer: peer, Heard: at(heard)}
}

// cut is the case of two nodes, a limit of two, and node b cut off from 1 s to 5 s with a ttl of 2
// s.
func cut() Case {
	return Case{
		Scenario: "trial", Limit: 2, Begin: begin, Nodes: map[string]string{"A": "a", "B": "b"},
		Cuts: []Cut{{Node: "b", At: at(1000), TTL: 2 * time.Second, Guard: 200 * time.Millisecond, Healed: at(5000)}},
	}
}

func TestVerdicts(t *testing.T) {
	unseen := cut()
	unseen.Cuts[0].Gone = at(2850)
	goneLate := cut()
	goneLate.Cuts[0].Gone = at(3050)
	early := cut()
	early.Cuts[0].TTL = 200 * time.Millisecond
	soon := cut()
	soon.Cuts[0].Healed = at(2000)
	blind := cut()
	blind.Blind = []Interval{{at(2900), at(3100)}, {at(4000), at(4100)}}
	for _, test := range []struct {
		name   string
		c      Case
		events []upstream.Event
		want   []string // what each breach says
	}{
		{"all well", cut(), []upstream.Event{
			open(0, 1, "A"), open(10, 2, "B"), end(2800, 2, "B", 2700), open(3500, 3, "A"), end(4000, 3, "A", 3900), open(5500, 4, "B"),
			end(6000, 4, "B", 5900),
		}, nil},
		{"over the limit", Case{Scenario: "trial", Limit: 2, Begin: begin}, []upstream.Event{
			open(0, 1, "A"), open(10, 2, "B"), open(20, 3, "A"), open(30, 4, "A"), end(40, 3, "A", 40), end(50, 4, "A", 50), open(60, 5, "C"),
		}, []string{"trial: at 20ms: 3 connections are open; the limit is 2", "trial: at 60ms: 3 connections"}},
		{"an end and an opening at one instant", Case{Limit: 1}, []upstream.Event{
			open(0, 1, "A"), open(10, 2, "B"), end(10, 1, "A", 5),
		}, nil},
		{"open at the deadline", cut(), []upstream.Event{open(0, 1, "B"), end(3100, 1, "B", 2900)},
			[]string{"trial: at 3s: node b, cut off 2s ago, has a connection open"}},
		{"open for ever", cut(), []upstream.Event{open(0, 1, "B")}, []string{"node b, cut off 2s ago, has a connection open"}},
		{"a byte after the deadline", cut(), []upstream.Event{open(0, 1, "B"), end(3100, 1, "B", 3050)},
			[]string{"has a connection open", "trial: at 3.05s: node b, cut off 2.05s ago, sends on an old connection"}},
		{"opened after the deadline", cut(), []upstream.Event{open(3200, 1, "B"), end(3300, 1, "B", 3250)},
			[]string{"trial: at 3.2s: node b, cut off 2.2s ago, opens a connection"}},
		{"others have all too soon", cut(), []upstream.Event{
			open(0, 1, "B"), open(1100, 2, "A"), open(1200, 3, "A"), end(1300, 1, "B", 100),
		}, []string{"3 connections are open", "the others hold the whole limit 100ms before the last connection"}},
		{"unseen", unseen, []upstream.Event{
			open(0, 1, "A"), open(10, 2, "B"), open(3500, 3, "A"), end(5100, 2, "B", 1000), open(5500, 4, "B"), end(5600, 3, "A", 5600),
		}, []string{"trial: at 5.5s: 3 connections are open"}},
		{"unseen, too soon", unseen, []upstream.Event{
			open(0, 1, "A"), open(10, 2, "B"), open(2800, 3, "A"), end(5100, 2, "B", 1000),
		}, []string{"trial: at 2.8s: 3 connections are open", "50ms before the last connection"}},
		{"unseen, gone late", goneLate, []upstream.Event{open(10, 2, "B"), end(5100, 2, "B", 1000)},
			[]string{"trial: at 3s: node b, cut off 2s ago, has a connection open"}},
		{"seen late, by an observer that stood still", blind, []upstream.Event{open(0, 1, "B"), end(3050, 1, "B", 2800)}, nil},
		{"opened and ended while the observer stood still", blind, []upstream.Event{
			open(4010, 1, "A"), end(4090, 1, "A", 4020), open(4200, 2, "A"), open(4300, 3, "A"),
		}, nil},
		{"late, though the machine stood still", blind, []upstream.Event{open(0, 1, "B"), end(3650, 1, "B", 2800)},
			[]string{"trial: at 3.2s: node b, cut off 2s ago, has a connection open"}},
		{"late, as the machine stood still when it should have fenced", blind, []upstream.Event{open(0, 1, "B"), end(3150, 1, "B", 2800)}, nil},
		{"late, as the machine stood still before", cut(), []upstream.Event{open(0, 1, "B"), end(3150, 1, "B", 2800)},
			[]string{"trial: at 3s: node b, cut off 2s ago, has a connection open"}},
		{"healed before the deadline", soon, []upstream.Event{open(0, 1, "B"), open(2200, 2, "B")}, nil},
		{"ended before the cut", early, []upstream.Event{open(0, 1, "B"), end(900, 1, "B", 800)}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := Try(test.c, test.events)
			if len(v.Breaches) != len(test.want) {
				t.Fatalf("%d breaches; want %d: %v", len(v.Breaches), len(test.want), v.Breaches)
			}
			for i, want := range test.want {
				if got := v.Breaches[i].Error(); !strings.Contains(got, want) {
					t.Errorf("breach %d is\n%s\nwant\n%s", i, got, want)
				}
			}
		})
	}
}

func TestDeadlineIsPutOff(t *testing.T) {
	c := Cut{At: at(1000), TTL: 2 * time.Second, Guard: 200 * time.Millisecond}
	for _, test := range []struct {
		name  string
		blind []Interval
		want  int
	}{
		{"never", nil, 3000},
		{"before the fence", []Interval{{at(1000), at(2800)}}, 3000},
		{"into the fence", []Interval{{at(2000), at(2900)}}, 3100},
		{"over all", []Interval{{at(2000), at(5000)}}, 5200},
		{"at the end, and again in the time put off", []Interval{{at(2950), at(3050)}, {at(3090), at(3290)}, {at(3400), at(3500)}}, 3300},
		{"after it", []Interval{{at(3000), at(3500)}}, 3000},
	} {
		if got := c.Deadline(test.blind); !got.Equal(at(test.want)) {
			t.Errorf("%s: %v; want %v", test.name, got.Sub(begin), at(test.want).Sub(begin))
		}
	}
}

func TestBreachNamesItsConnections(t *testing.T) {
	v := Try(cut(), []upstream.Event{open(0, 1, "A"), open(10, 2, "B"), open(20, 3, "Z"), end(30, 2, "B", 25)})
	const want = `trial: at 20ms: 3 connections are open; the limit is 2
  connection 1 of node a, opened at 0s, ended at -, last heard at -
  connection 2 of node b, opened at 10ms, ended at 30ms, last heard at 25ms
  connection 3 of node Z, opened at 20ms, ended at -, last heard at -`
	if diff := cmp.Diff(want, v.Breaches[0].Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFigures(t *testing.T) {
	v := Try(cut(), []upstream.Event{
		open(0, 1, "A"), open(500, 2, "B"), end(2800, 2, "B", 2700), open(3400, 3, "A"), end(3600, 3, "A", 3500), open(3700, 4, "A"),
	})
	if v.Peak != 2 || !v.LastEnd.Equal(at(2800)) || !v.Full.Equal(at(3400)) || v.Breaches != nil {
		t.Errorf("verdict %+v; want a peak of 2, the last end at 2.8 s, the others full at 3.4 s", v)
	}
}

func TestVerdictIsBounded(t *testing.T) {
	var events []upstream.Event
	for i := range 100 {
		events = append(events, open(10*i, uint64(i+1), "A"), end(10*i+5, uint64(i+1), "A", 10*i))
	}
	if v := Try(Case{Limit: 0, Begin: begin}, events); len(v.Breaches) != maxOfAKind || v.Peak != 1 {
		t.Errorf("%d breaches, peak %d; want %d and 1", len(v.Breaches), v.Peak, maxOfAKind)
	}
}
