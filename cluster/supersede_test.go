package cluster

import (
	"strings"
	"testing"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// TestNamesAsVoter: which preface shows that a server forms a second cluster.
func TestNamesAsVoter(t *testing.T) {
	t.Parallel()
	self := identity{Name: "a", Identity: strings.Repeat("ab", handshake.IdentityBytes), Cluster: "2222", FormedAlone: true}
	p := func(change func(*clusterpb.Preface)) *clusterpb.Preface {
		p := &clusterpb.Preface{Kind: handshake.KindRaft, Target: "a.0123456789abcdef", From: &clusterpb.Introduction{Node: "b", Cluster: "1111", LeadsTerm: 4}}
		if change != nil {
			change(p)
		}
		return p
	}
	joined := self
	joined.FormedAlone = false
	for _, test := range []struct {
		name string
		p    *clusterpb.Preface
		self identity
		want bool
	}{
		{"a leader looks for a former server", p(nil), self, true},
		{"of a server that was sent elsewhere", p(nil), joined, false},
		{"one that does not lead", p(func(p *clusterpb.Preface) { p.From.LeadsTerm = 0 }), self, false},
		{"one that looks for another name", p(func(p *clusterpb.Preface) { p.Target = "c.0123456789abcdef" }), self, false},
		{"one of the own cluster", p(func(p *clusterpb.Preface) { p.From.Cluster = "2222" }), self, false},
		{"one that means this very server", p(func(p *clusterpb.Preface) { p.Target = handshake.ServerID("a", self.Identity) }), self, false},
		{"something else than Raft", p(func(p *clusterpb.Preface) { p.Kind = handshake.KindGRPC }), self, false},
	} {
		if got := namesAsVoter(test.p, test.self); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
