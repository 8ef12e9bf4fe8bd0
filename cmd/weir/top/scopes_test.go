package top

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/api"
)

// TestScopes: a key goes to the other scopes, whose use is asked for, and shows their rates.
func TestScopes(t *testing.T) {
	m := world(Options{Unicode: true})
	m.Resize(130, 24)
	if m.Scope() != "" {
		t.Errorf("at first, the use of scope %q is wanted", m.Scope())
	}
	m.Key("s")
	if m.Scope() != "client" || m.Host() != "" {
		t.Fatalf("after s, the use of scope %q and the connections of %q are wanted", m.Scope(), m.Host())
	}
	if got := m.Frame(start); !strings.Contains(got, "asking for the use of scope client") {
		t.Errorf("before it is told:\n%s", got)
	}
	told := func(second int, rejected uint64) {
		u := use(3, 4, 1, 100, rejected)
		u.Limit = capped(50)
		u.WouldReject = 7
		u.Requests = &api.RateUse{Rate: 20, Now: 12.5, Waiting: 3, WouldReject: 3}
		u.Bandwidth = &api.BandwidthUse{Download: &api.RateUse{Rate: 5e6, Now: 1.2e6}}
		m.TakeUsage(start.Add(time.Duration(second)*time.Second), "client", api.Usages{Usage: []api.Usage{
			{Scope: "client", Name: "10.0.0.7", Pattern: "*", Use: u, Nodes: map[string]api.Use{"a": u}},
			{Scope: "client", Name: "10.0.0.8", Nodes: map[string]api.Use{}},
		}}, "")
	}
	told(0, 10)
	told(2, 16)
	m.TakeUsage(start, "user", api.Usages{}, "") // which is not shown
	golden(t, m, "scope-client", start)
	m.Key("enter")
	golden(t, m, "scope-detail", start)
	m.Key("esc")
	for _, want := range []string{"user", "total", "key", ""} {
		if m.Key("s"); m.Scope() != want {
			t.Errorf("the next scope is %q, want %q", m.Scope(), want)
		}
		if want == "total" {
			m.TakeUsage(start, want, api.Usages{Usage: []api.Usage{{Scope: want}}}, "")
			if got := m.Frame(start); !strings.Contains(got, "all requests") {
				t.Errorf("the total:\n%s", got)
			}
		}
	}
	if got := m.Frame(start); !strings.Contains(got, "api.example.com") {
		t.Errorf("the hosts are gone:\n%s", got)
	}
}

// TestScopeWithMoreNames: of a scope with more names than one answer has, the screen says that
// there are more, and how to find them.
func TestScopeWithMoreNames(t *testing.T) {
	m := world(Options{Unicode: true})
	m.Resize(130, 24)
	m.Key("s")
	told := func(next string) {
		m.TakeUsage(start, "client", api.Usages{Usage: []api.Usage{{Scope: "client", Name: "10.0.0.7"}}, Next: next}, "")
	}
	const note, none = "more than the 1 names with the most in use: weir usage client --prefix finds the others", "of those with the most in use passes"
	told("0/10.0.0.7")
	if got := m.Frame(start); !strings.Contains(got, note) || strings.Contains(got, none) {
		t.Errorf("with more names:\n%s", got)
	}
	keys(m, "/", "x", "enter")
	if got := m.Frame(start); !strings.Contains(got, note) || !strings.Contains(got, none) {
		t.Errorf("with more names, and a filter that none passes:\n%s", got)
	}
	told("")
	if got := m.Frame(start); strings.Contains(got, note) || !strings.Contains(got, "no client passes the filter") {
		t.Errorf("with all names:\n%s", got)
	}
	told("0/10.0.0.7")
	keys(m, "esc", "s", "s", "s", "s")
	if got := m.Frame(start); strings.Contains(got, note) {
		t.Errorf("of hosts:\n%s", got)
	}
}
