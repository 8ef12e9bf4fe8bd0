package server

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirproxy/weir/limit"
)

func tableOf(t testing.TB, patterns ...string) *limit.Table {
	t.Helper()
	var limits []limit.Limit
	for _, text := range patterns {
		p, err := limit.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		limits = append(limits, limit.Limit{Pattern: p, Connections: 3, Source: limit.SourceAPI})
	}
	return limit.NewTable(1, 1, limits)
}

func usedBy(host string, admitted uint64) NodeUse {
	return NodeUse{Key: limit.HostConnections(host), InUse: 1, Admitted: admitted}
}

// told are the admissions by name.
func told(series []hostSeries) map[string]uint64 {
	out := map[string]uint64{}
	for _, s := range series {
		out[s.name] = s.admitted
	}
	return out
}

func TestHostPlaces(t *testing.T) {
	none := tableOf(t)
	h := newHostPlaces(2)
	for _, step := range []struct {
		what  string
		uses  []NodeUse
		table *limit.Table
		want  map[string]uint64
	}{
		{"the busiest have places", []NodeUse{usedBy("a", 1), usedBy("b", 5), usedBy("c", 3)}, none, map[string]uint64{"b": 5, "c": 3, "other": 1}},
		{"a place is kept", []NodeUse{usedBy("a", 90), usedBy("b", 6), usedBy("c", 3)}, none, map[string]uint64{"b": 6, "c": 3, "other": 90}},
		{"what was counted under other stays there", []NodeUse{usedBy("a", 95), usedBy("b", 6)}, none, map[string]uint64{"a": 5, "b": 6, "other": 90}},
		{"a host that was forgotten begins anew", []NodeUse{usedBy("a", 2), usedBy("b", 6)}, none, map[string]uint64{"a": 7, "b": 6, "other": 90}},
		{"one with a limit takes the place of the least without", []NodeUse{usedBy("a", 2), usedBy("b", 7), usedBy("l", 4)}, tableOf(t, "l"),
			map[string]uint64{"b": 7, "l": 4, "other": 90}},
		{"and what comes after is other's", []NodeUse{usedBy("a", 3), usedBy("b", 7), usedBy("l", 4)}, tableOf(t, "l"),
			map[string]uint64{"b": 7, "l": 4, "other": 91}},
		{"nobody takes a limited host's place", []NodeUse{usedBy("l", 4), usedBy("m", 9), usedBy("n", 99)}, tableOf(t, "l", "m", "n"),
			map[string]uint64{"l": 4, "n": 99, "other": 100}},
		{"a host of that name is told with the others", []NodeUse{usedBy("other", 10)}, tableOf(t, "other"), map[string]uint64{"other": 110}},
	} {
		if diff := cmp.Diff(step.want, told(h.update(step.uses, step.table))); diff != "" {
			t.Fatalf("%s: %s", step.what, diff)
		}
	}
	if got := told(newHostPlaces(0).update([]NodeUse{usedBy("a", 1)}, none)); !maps.Equal(got, map[string]uint64{"other": 1}) {
		t.Errorf("without places: %v", got)
	}
}

// TestHostPlacesFewerAndMore changes the room while the node runs, as a reload does.
func TestHostPlacesFewerAndMore(t *testing.T) {
	h := newHostPlaces(3)
	table := tableOf(t, "l")
	uses := []NodeUse{usedBy("a", 1), usedBy("b", 5), usedBy("c", 3), usedBy("l", 2)}
	for _, step := range []struct {
		most int
		want map[string]uint64
	}{
		{3, map[string]uint64{"l": 2, "b": 5, "c": 3, "other": 1}},
		{1, map[string]uint64{"l": 2, "other": 1}}, // what b and c had was told, and is not told again
		{0, map[string]uint64{"other": 1}},
		{10, map[string]uint64{"l": 0, "a": 0, "b": 0, "c": 0, "other": 1}},
	} {
		h.setMost(step.most)
		if diff := cmp.Diff(step.want, told(h.update(uses, table))); diff != "" {
			t.Errorf("%d places: %s", step.most, diff)
		}
	}
}

// TestHostPlacesProperties: never more names than places, what is in use is told once and in full,
// and no series falls while it is there.
func TestHostPlacesProperties(t *testing.T) {
	tables := []*limit.Table{tableOf(t), tableOf(t, "h1", "h2", "h3"), tableOf(t, "*")}
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(0, 4).Draw(t, "most")
		h := newHostPlaces(most)
		count := map[string]uint64{}
		last := map[string]uint64{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			for i := range 8 {
				name := fmt.Sprintf("h%d", i)
				switch rapid.IntRange(0, 3).Draw(t, name) {
				case 0:
					delete(count, name)
				case 1:
					count[name] += rapid.Uint64Range(0, 9).Draw(t, "more")
				}
			}
			var uses []NodeUse
			for _, name := range slices.Sorted(maps.Keys(count)) {
				uses = append(uses, usedBy(name, count[name]))
			}
			if rapid.IntRange(0, 4).Draw(t, "resize") == 0 {
				most = rapid.IntRange(0, 4).Draw(t, "most")
				h.setMost(most)
			}
			series := h.update(uses, rapid.SampledFrom(tables).Draw(t, "table"))
			if len(series) > most+1 || series[len(series)-1].name != "other" {
				t.Fatalf("%d places: %+v", most, series)
			}
			inUse := int64(0)
			for _, s := range series {
				inUse += s.inUse
				if s.admitted < last[s.name] {
					t.Fatalf("%s fell from %d to %d", s.name, last[s.name], s.admitted)
				}
			}
			if inUse != int64(len(uses)) {
				t.Fatalf("%d in use are told as %d", len(uses), inUse)
			}
			last = told(series)
		}
	})
}

// TestMetricsOfLimits: every scope and resource that a limit caps is told, under a bounded number
// of names.
func TestMetricsOfLimits(t *testing.T) {
	b := newBench(t, Config{MetricsHosts: 1}, "a")
	a := b.nodes["a"]
	rates := func(r limit.Resource, n NodeRate) map[limit.Resource]NodeRate {
		return map[limit.Resource]NodeRate{r: n}
	}
	for path, body := range map[string]string{
		"client/%2A": `{"connections":5,"requests":{"rate":"600/m"},"mode":"report"}`,
		"total":      `{"bandwidth":{"download":"10MB"}}`,
		"connection": `{"bandwidth":{"download":"5MB"},"mode":"report"}`,
	} {
		if w := a.do(try{method: "PUT", path: "/v1/limits/" + path, body: body}); w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	b.see()
	client := func(name string, n NodeRate) NodeUse {
		return NodeUse{Key: limit.Key{Scope: limit.ScopeClient, Resource: limit.Connections, Name: name}, Granted: 4, InUse: 3, Waiting: 2, Admitted: 9, WouldReject: 1, Rates: rates(limit.Requests, n)}
	}
	a.uses = []NodeUse{
		client("10.0.0.1", NodeRate{Granted: 5, Now: 2.5, Waiting: 1, Admitted: 70, Rejected: 8, WouldReject: 6}),
		client("10.0.0.2", NodeRate{Admitted: 1}),
		client("10.0.0.3", NodeRate{Admitted: 2}),
		{Key: limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections}, InUse: 7, Rates: rates(limit.Download, NodeRate{Now: 1e6, Admitted: 5e6})},
		{Key: limit.Key{Scope: limit.ScopeConnection, Resource: limit.Connections}, Rates: rates(limit.Download, NodeRate{Admitted: 4e6, WouldReject: 3})},
	}
	got := metricsOf(t, a)
	for name, want := range map[string]float64{
		`weir_limit{name="10.0.0.1",resource="requests",scope="client"}`:                       10,
		`weir_limit{name="10.0.0.1",resource="connections",scope="client"}`:                    5,
		`weir_limit{name="",resource="download",scope="total"}`:                                1e7,
		`weir_limit_granted{name="10.0.0.1",resource="requests",scope="client"}`:               5,
		`weir_limit_used{name="10.0.0.1",resource="requests",scope="client"}`:                  2.5,
		`weir_limit_used{name="10.0.0.1",resource="connections",scope="client"}`:               3,
		`weir_limit_used{name="other",resource="connections",scope="client"}`:                  6,
		`weir_limit_used{name="",resource="download",scope="total"}`:                           1e6,
		`weir_limit_waiting{name="10.0.0.1",resource="connections",scope="client"}`:            2,
		`weir_limit_admitted_total{name="10.0.0.1",resource="requests",scope="client"}`:        70,
		`weir_limit_admitted_total{name="other",resource="requests",scope="client"}`:           3,
		`weir_limit_rejected_total{name="10.0.0.1",resource="requests",scope="client"}`:        8,
		`weir_limit_would_reject_total{name="10.0.0.1",resource="requests",scope="client"}`:    6,
		`weir_limit_would_reject_total{name="10.0.0.1",resource="connections",scope="client"}`: 1,
		`weir_limit_admitted_total{name="",resource="download",scope="total"}`:                 5e6,
		`weir_limit{name="",resource="download",scope="connection"}`:                           5e6,
		`weir_limit_admitted_total{name="",resource="download",scope="connection"}`:            4e6,
		`weir_limit_would_reject_total{name="",resource="download",scope="connection"}`:        3,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	for _, name := range []string{
		`weir_limit{name="other",resource="requests",scope="client"}`, `weir_limit_used{name="10.0.0.2",resource="requests",scope="client"}`,
		`weir_limit_used{name="",resource="connections",scope="total"}`, `weir_limit_used{name="other",resource="connections",scope="host"}`,
		`weir_limit_granted{name="",resource="download",scope="connection"}`, `weir_limit_used{name="",resource="download",scope="connection"}`,
	} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is told", name)
		}
	}

	// The names stay bounded, and no counter falls, when the limit's rates begin anew.
	a.uses[0].Rates = rates(limit.Requests, NodeRate{Admitted: 1})
	if v := metricsOf(t, a)[`weir_limit_admitted_total{name="10.0.0.1",resource="requests",scope="client"}`]; v != 71 {
		t.Errorf("after a rate began anew, %v are told, want 71", v)
	}
}
