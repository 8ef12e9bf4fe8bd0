package weir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/proxy"
)

// TestLeads: the leader is meant by its name or id, but not where a former server of the same name
// could be meant.
func TestLeads(t *testing.T) {
	peers := []cluster.Peer{{ID: "a.1", Name: "a", Leader: true}, {ID: "b.1", Name: "b"}, {ID: "b.0", Name: "b"}}
	renewed := append(peers[:3:3], cluster.Peer{ID: "a.0", Name: "a"})
	for _, c := range []struct {
		peers []cluster.Peer
		name  string
		want  bool
	}{
		{peers, "a", true}, {peers, "a.1", true}, {peers, "b", false}, {peers, "b.0", false}, {peers, "c", false},
		{renewed, "a", false}, {renewed, "a.1", true}, {renewed, "a.0", false}, {nil, "a", false},
	} {
		if got := leads(c.peers, c.name); got != c.want {
			t.Errorf("%s of %v: %v, want %v", c.name, c.peers, got, c.want)
		}
	}
}

// A failure of the cluster that its state explains is a conflict, and keeps its text.
func TestConflicts(t *testing.T) {
	for _, err := range []error{cluster.ErrUnsafe, cluster.ErrNotTransferred} {
		got := apiError(fmt.Errorf("%w: b is down", err))
		if !errors.Is(got, server.ErrConflict) || !strings.HasSuffix(got.Error(), err.Error()+": b is down") {
			t.Errorf("%v becomes %v, want a conflict", err, got)
		}
	}
	if err := apiError(context.DeadlineExceeded); errors.Is(err, server.ErrConflict) {
		t.Errorf("a deadline becomes %v", err)
	}
}

// A node that drains is shown as such while it is there, also where it may be dead, and not once it
// has left, although a node that leaves has drained before.
func TestDrainingNodes(t *testing.T) {
	for health, want := range map[cluster.Health]bool{
		cluster.HealthAlive: true, cluster.HealthSuspect: true, cluster.HealthDead: true, cluster.HealthLeft: false,
	} {
		got := nodes([]cluster.Member{{Name: "a", Health: health, Draining: true}, {Name: "b", Health: health}}, nil, "", nil)
		if len(got) != 2 || got[0].Draining != want || got[1].Draining {
			t.Errorf("%s: %+v, want draining %v and false", health, got, want)
		}
	}
}

// Of a node that gossip has forgotten, and that still has a session, no role is made up: it is a
// server if it is in the Raft configuration, and not if a former server of its name is.
func TestForgottenNodes(t *testing.T) {
	peers := []cluster.Peer{{ID: cluster.Member{Name: "s", Identity: "1"}.ServerID(), Name: "s"}}
	for session, want := range map[leader.SessionInfo]string{
		{Node: "s", Identity: "1"}: "server",
		{Node: "s", Identity: "2"}: "",
		{Node: "p", Identity: "1"}: "",
	} {
		got := nodes(nil, peers, "", map[string]leader.SessionInfo{session.Node: session})
		if len(got) != 1 || got[0].Name != session.Node || got[0].Role != want {
			t.Errorf("%+v: %+v; want the role %q", session, got, want)
		}
	}
}

// A node that has had a session does not say that it has never reached the leader.
func TestUnready(t *testing.T) {
	for _, on := range []config.OnExpiry{config.OnExpiryClose, config.OnExpiryDrain, config.OnExpiryKeep} {
		fenced := "no longer reached"
		if on == config.OnExpiryKeep {
			fenced = "" // it goes on
		}
		for state, want := range map[string]string{
			leasepb.SessionLive: "", leasepb.SessionNone: "not been reached yet", leasepb.SessionFenced: fenced,
		} {
			if got := unready(state, on); !strings.Contains(got, want) || (got == "") != (want == "") {
				t.Errorf("%s, %s: %q; want %q", on, state, got, want)
			}
		}
	}
}

// Every protocol of connections that the proxy has is one that the API's description names.
func TestKindsAreDescribed(t *testing.T) {
	var description struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	n, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close(t.Context()) }()
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/v1/openapi.json", nil))
	if err := json.Unmarshal(w.Body.Bytes(), &description); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for k := proxy.KindConnect; k.String() != proxy.Kind(0).String(); k++ {
		kinds = append(kinds, k.String())
	}
	described := description.Components.Schemas["Connection"].Properties["protocol"].Enum
	slices.Sort(kinds)
	slices.Sort(described)
	if !slices.Equal(kinds, described) {
		t.Errorf("the proxy has connections of the protocols %q, and openapi.json names %q", kinds, described)
	}
}

// A queue's timeout has one range, and one error, in a config and through the API.
func TestQueueTimeoutIsRefusedAlike(t *testing.T) {
	n, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close(t.Context()) }()
	for timeout, ok := range map[string]bool{"1ms": true, "1h": true, "1.5ms": true, "999us": false, "500ns": false, "1h1ms": false} {
		file := filepath.Join(t.TempDir(), "a.hcl")
		hcl := fmt.Sprintf("limits {\n host \"x.org\" {\n connections = 1\n queue {\n timeout = %q\n size = 1\n }\n }\n}", timeout)
		if err := os.WriteFile(file, []byte(hcl), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems := config.LoadLimits(file, config.Options{})
		r := httptest.NewRequest(http.MethodPut, "http://localhost/v1/limits/host/x.org",
			strings.NewReader(fmt.Sprintf(`{"connections":1,"queue":{"timeout":%q,"size":1}}`, timeout)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if ok != (len(problems) == 0) || ok != (w.Code == http.StatusOK) {
			t.Errorf("%s: the file says %v, the API %d %s", timeout, problems, w.Code, w.Body)
			continue
		}
		if ok {
			continue
		}
		// The hint is a sentence of its own in a file.
		text := problems[0].Message + ": " + strings.ToLower(problems[0].Hint[:1]) + strings.TrimSuffix(problems[0].Hint[1:], ".")
		var problem api.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil {
			t.Fatal(err)
		}
		if text != "limits.host."+problem.Detail {
			t.Errorf("the file says %q, the API %q", text, problem.Detail)
		}
	}
}
