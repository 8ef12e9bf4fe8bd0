package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestPageChangesWhatItShows: a change that is applied in the page changes the limit that was
// shown, as it was shown, or none.
func TestPageChangesWhatItShows(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	b := openBrowser(t, "http://"+n.api)
	b.size(t, 1440, 900, false, false)
	b.shows(t, stepTime, "#link", "live")
	pageMeetsAnotherNewLimit(t, b, n)
	pageMeetsADeletion(t, b, n)
	b.silent(t, "412", "404") // which the conflicts were to bring
}

// pageMeetsAnotherNewLimit: a limit that somebody else adds while one with the same pattern is
// typed is shown, and overwritten when the change is applied again.
func pageMeetsAnotherNewLimit(t *testing.T, b *browser, n *node) {
	const pattern = "twice.example"
	b.click(t, "#tab-limits")
	b.click(t, "#limit-add")
	b.enter(t, "#limit-new [name=pattern]", pattern)
	b.enter(t, "#limit-new [name=connections]", "7")
	n.http.setLimit(t, pattern, connections(8))
	b.click(t, "#limit-new [type=submit]")
	b.shows(t, stepTime, "#limit-new form", "Somebody has added this limit meanwhile")
	b.shows(t, stepTime, "#limit-new .diff .minus", "connections: 8")
	b.enter(t, "#limit-new [name=connections]", "6")
	b.shows(t, stepTime, "#limit-new .diff .plus", "connections: 6")
	if err := n.http.limitIs(pattern, 8); err != nil {
		t.Error("before it is applied again: ", err)
	}
	b.click(t, "#limit-new [type=submit]")
	b.gone(t, stepTime, "#limit-new form")
	if err := n.http.limitIs(pattern, 6); err != nil {
		t.Error(err)
	}

	// With another pattern, it is a new limit again.
	b.click(t, "#limit-add")
	b.enter(t, "#limit-new [name=connections]", "5")
	b.enter(t, "#limit-new [name=pattern]", "first.example")
	n.http.setLimit(t, "first.example", connections(4))
	b.click(t, "#limit-new [type=submit]")
	b.shows(t, stepTime, "#limit-new form", "Somebody has added this limit meanwhile")
	b.enter(t, "#limit-new [name=pattern]", "second.example")
	b.gone(t, stepTime, "#limit-new .diff .minus")
	b.click(t, "#limit-new [type=submit]")
	b.gone(t, stepTime, "#limit-new form")
	for want, pattern := range map[int]string{4: "first.example", 5: "second.example"} {
		if err := n.http.limitIs(pattern, want); err != nil {
			t.Error(err)
		}
	}
}

// pageMeetsADeletion: a limit that somebody else deletes while it is edited is set anew when the
// change is applied again.
func pageMeetsADeletion(t *testing.T, b *browser, n *node) {
	n.http.must(t, http.StatusOK, "PUT", "/v1/limits/total", connections(20), nil)
	b.click(t, "#tab-total")
	b.shows(t, stepTime, "#scope-limit", "total: 20 connections")
	b.click(t, "#scope-limit button")
	b.enter(t, "#scope-limit [name=connections]", "30")
	n.http.must(t, http.StatusOK, "DELETE", "/v1/limits/total", "", nil)
	b.click(t, "#scope-limit [type=submit]")
	b.shows(t, stepTime, "#scope-limit form", "Somebody has deleted this limit meanwhile")
	b.gone(t, stepTime, "#scope-limit .diff .minus")
	n.http.must(t, http.StatusNotFound, "GET", "/v1/limits/total", "", nil)
	b.click(t, "#scope-limit [type=submit]")
	b.gone(t, stepTime, "#scope-limit form")
	a := n.http.must(t, http.StatusOK, "GET", "/v1/limits/total", "", nil)
	if want := `"connections":30`; !strings.Contains(string(a.body), want) {
		t.Errorf("after the change, %s lacks %s", a.body, want)
	}
}
