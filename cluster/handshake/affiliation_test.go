package handshake

import (
	"errors"
	"slices"
	"testing"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// TestAffiliationJudges: who may deal with whom.
func TestAffiliationJudges(t *testing.T) {
	t.Parallel()
	const mine, other = "1111", "2222"
	for _, test := range []struct {
		name   string
		have   string
		seed   bool
		theirs string
		how    Meeting
		want   error
		then   string
	}{
		{"two of one cluster", mine, false, mine, MetAccepted, nil, mine},
		{"two of none", "", false, "", MetDialled, nil, ""},
		{"a young node dials a member", mine, false, "", MetAccepted, nil, mine},
		{"a member of another dials", mine, false, other, MetAccepted, ErrOtherCluster, mine},
		{"a member of another is dialled", mine, false, other, MetDialled, ErrOtherCluster, mine},
		{"also one that means this very server", mine, false, other, MetMeant, ErrOtherCluster, mine},
		{"also one that cluster.join names", mine, false, other, MetProbed, ErrOtherCluster, mine},
		{"a seed follows who dials it", "", true, other, MetAccepted, nil, other},
		{"but not who gossip names", "", true, other, MetDialled, errUndecided, ""},
		{"one that has somebody to join does not", "", false, other, MetAccepted, errUndecided, ""},
		{"nor whom it dials by hearsay", "", false, other, MetDialled, errUndecided, ""},
		{"Raft means this very server", "", false, other, MetMeant, nil, ""},
		{"cluster.join is asked first", "", false, other, MetProbed, nil, ""},
	} {
		a := &Affiliation{id: test.have, settled: test.have != "", Seed: test.seed, keep: func(string) error { return nil }}
		other := &clusterpb.Introduction{Node: "n", Cluster: test.theirs}
		err := a.judge(other, "1.2.3.4:5", test.how)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if a.Cluster() != test.have {
			t.Errorf("%s: decided before it is confirmed", test.name)
		}
		if err == nil {
			clustertest.Must(t, a.follow(other, test.how))
		}
		if a.Cluster() != test.then {
			t.Errorf("%s: then of cluster %q, want %q", test.name, a.Cluster(), test.then)
		}
	}
}

// TestAffiliationIsForGood: a node is of one cluster, and says so only once it is written down.
func TestAffiliationIsForGood(t *testing.T) {
	t.Parallel()
	var kept, decided []string
	var fails error
	a := &Affiliation{
		keep:    func(id string) error { kept = append(kept, id); return fails },
		decided: func(id string) { decided = append(decided, id) },
	}
	fails = errors.New("no room")
	if err := a.Settle("1111"); !errors.Is(err, fails) || a.Cluster() != "" || decided != nil {
		t.Errorf("what can't be written down: %v, of %q, decided %q", err, a.Cluster(), decided)
	}
	fails = nil
	clustertest.Must(t, a.Lean("1111"))
	clustertest.Must(t, a.Settle("1111"))
	clustertest.Must(t, a.Settle("1111"))
	for _, err := range []error{a.Settle("2222"), a.Lean("2222")} {
		if !errors.Is(err, ErrOtherCluster) {
			t.Errorf("another cluster: %v", err)
		}
	}
	if !slices.Equal(kept, []string{"1111", "1111"}) || !slices.Equal(decided, []string{"1111"}) {
		t.Errorf("written down: %q; decided: %q", kept, decided)
	}
}
