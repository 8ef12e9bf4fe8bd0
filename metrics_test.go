package weir

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/proxy"
)

// docs/metrics.md names every reason for a refusal; the test of package api/server sees to the
// metrics themselves.
func TestRefusalReasonsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reasons, found := strings.Cut(string(b), "The values of `reason`")
	reasons, _, _ = strings.Cut(reasons, "\n\n")
	for _, r := range proxy.Refusals() {
		if !found || !strings.Contains(reasons, "`"+r.String()+"`") {
			t.Errorf("docs/metrics.md does not name the reason %s", r)
		}
	}
	if named, known := strings.Count(reasons, "`")/2, len(proxy.Refusals()); named != known+1 { // and Proxy-Status
		t.Errorf("docs/metrics.md names %d reasons, there are %d", named-1, known)
	}
}

func TestReclaims(t *testing.T) {
	var r reclaims
	r.note(leader.SessionEnd{Why: "expired", Slots: 5, Silent: 10 * time.Second})
	r.note(leader.SessionEnd{Why: "expired", Slots: 2, Silent: 11 * time.Second})
	r.note(leader.SessionEnd{Why: "left"})
	r.note(leader.SessionEnd{Why: "taken over", Slots: 1, Silent: time.Second})
	took, slots := r.read()
	for why, want := range map[string]struct {
		count uint64
		sum   time.Duration
		slots int64
	}{"expired": {2, 21 * time.Second, 7}, "left": {1, 0, 0}, "taken_over": {1, time.Second, 1}} {
		if d := took[why]; d.Count != want.count || d.Sum != want.sum || slots[why] != want.slots {
			t.Errorf("%s: %d in %v, %d slots; want %+v", why, d.Count, d.Sum, slots[why], want)
		}
	}
}
