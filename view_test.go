package weir

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/weirproxy/weir/cluster"
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

// Every kind of connection that the proxy has is one that the API's description names.
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
	described := description.Components.Schemas["Connection"].Properties["kind"].Enum
	slices.Sort(kinds)
	slices.Sort(described)
	if !slices.Equal(kinds, described) {
		t.Errorf("the proxy has connections of the kinds %q, and openapi.json names %q", kinds, described)
	}
}
