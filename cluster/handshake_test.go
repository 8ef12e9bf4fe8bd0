package cluster

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// doorOf is the doorkeeper of a server, of a cluster or ("") of none yet.
func doorOf(serverID, cluster string) *doorkeeper {
	return &doorkeeper{
		name: NameOf(serverID), serverID: serverID,
		of: &affiliation{id: cluster, settled: cluster != "", keep: func(string) error { return nil }},
	}
}

// TestAffiliationJudges: who may deal with whom.
func TestAffiliationJudges(t *testing.T) {
	t.Parallel()
	const mine, other = "1111", "2222"
	for _, test := range []struct {
		name   string
		have   string
		seed   bool
		theirs string
		how    meeting
		want   error
		then   string
	}{
		{"two of one cluster", mine, false, mine, metAccepted, nil, mine},
		{"two of none", "", false, "", metDialled, nil, ""},
		{"a young node dials a member", mine, false, "", metAccepted, nil, mine},
		{"a member of another dials", mine, false, other, metAccepted, ErrOtherCluster, mine},
		{"a member of another is dialled", mine, false, other, metDialled, ErrOtherCluster, mine},
		{"also one that means this very server", mine, false, other, metMeant, ErrOtherCluster, mine},
		{"also one that cluster.join names", mine, false, other, metProbed, ErrOtherCluster, mine},
		{"a seed follows who dials it", "", true, other, metAccepted, nil, other},
		{"but not who gossip names", "", true, other, metDialled, errUndecided, ""},
		{"one that has somebody to join does not", "", false, other, metAccepted, errUndecided, ""},
		{"nor whom it dials by hearsay", "", false, other, metDialled, errUndecided, ""},
		{"Raft means this very server", "", false, other, metMeant, nil, ""},
		{"cluster.join is asked first", "", false, other, metProbed, nil, ""},
	} {
		a := &affiliation{id: test.have, settled: test.have != "", seed: test.seed, keep: func(string) error { return nil }}
		other := &clusterpb.Introduction{Node: "n", Cluster: test.theirs}
		err := a.judge(other, "1.2.3.4:5", test.how)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if a.cluster() != test.have {
			t.Errorf("%s: decided before it is confirmed", test.name)
		}
		if err == nil {
			must(t, a.follow(other, test.how))
		}
		if a.cluster() != test.then {
			t.Errorf("%s: then of cluster %q, want %q", test.name, a.cluster(), test.then)
		}
	}
}

// TestAffiliationIsForGood: a node is of one cluster, and says so only once it is written down.
func TestAffiliationIsForGood(t *testing.T) {
	t.Parallel()
	var kept, decided []string
	var fails error
	a := &affiliation{
		keep:    func(id string) error { kept = append(kept, id); return fails },
		decided: func(id string) { decided = append(decided, id) },
	}
	fails = errors.New("no room")
	if err := a.settle("1111"); !errors.Is(err, fails) || a.cluster() != "" || decided != nil {
		t.Errorf("what can't be written down: %v, of %q, decided %q", err, a.cluster(), decided)
	}
	fails = nil
	must(t, a.lean("1111"))
	must(t, a.settle("1111"))
	must(t, a.settle("1111"))
	for _, err := range []error{a.settle("2222"), a.lean("2222")} {
		if !errors.Is(err, ErrOtherCluster) {
			t.Errorf("another cluster: %v", err)
		}
	}
	if !slices.Equal(kept, []string{"1111", "1111"}) || !slices.Equal(decided, []string{"1111"}) {
		t.Errorf("written down: %q; decided: %q", kept, decided)
	}
}

// TestMuxRefusesOtherClusters: whatever a connection is for, no member of another cluster gets it,
// and both ends log which clusters met.
func TestMuxRefusesOtherClusters(t *testing.T) {
	t.Parallel()
	var near, far muxLog
	a, b := startMux(t, "a.1", nil, &far), startMux(t, "b.2", nil, &near)
	a.door.of.id, b.door.of.id = "1111", "2222"
	for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
		if err := talk(t, b, a, k, ""); !errors.Is(err, ErrOtherCluster) {
			t.Errorf("kind %s: %v", k, err)
		}
	}
	if err := talk(t, b, a, kindRaft, "a.1"); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("for this very server: %v", err)
	}
	const dials, accepts = "node a at", "node b at"
	eventually(t, 5*time.Second, "it is logged", func() bool { return strings.Contains(far.String(), accepts) })
	for text, log := range map[string]*muxLog{dials: &near, accepts: &far} {
		if got := log.String(); strings.Count(got, text) != 1 || !strings.Contains(got, "1111") || !strings.Contains(got, "2222") {
			t.Errorf("want one line with %q and both clusters:\n%s", text, got)
		}
	}
}

// TestMuxDropsOthersOnceDecided: connections that a young node opened to members of a cluster that
// turns out to be another one end.
func TestMuxDropsOthersOnceDecided(t *testing.T) {
	t.Parallel()
	young, member := newTestMux(t, "a.1"), newTestMux(t, "b.2")
	member.door.of.id = "2222"
	conn, err := member.dial(ctxWithin(t, true, young, kindRaft), young.self, kindRaft, "a.1")
	must(t, err)
	young.dropOthers("2222")
	must(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("a connection of its own cluster: %v", err)
	}
	young.dropOthers("1111")
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a connection of another cluster is still open: %v", err)
	}
}

// TestNothingPassesWithoutTheNonce: one that can't read the answer, such as a client of a proxy
// that stops at the greeting, is not taken for a node.
func TestNothingPassesWithoutTheNonce(t *testing.T) {
	t.Parallel()
	m := newTestMux(t, "a.1")
	m.door.of.seed = true
	m.door.heard = func(p *clusterpb.Preface, _ net.Addr) { t.Errorf("%v counts without the nonce", p) }
	for name, follows := range map[string][]byte{
		"nothing": nil, "a request": []byte("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"), "zeros": make([]byte, nonceBytes),
	} {
		conn, err := net.Dial("tcp", m.self)
		must(t, err)
		hello, err := appendPreface(nil, &clusterpb.Preface{Kind: kindHTTP, From: &clusterpb.Introduction{Node: "x", Cluster: "2222"}})
		must(t, err)
		_, err = conn.Write(append(hello, follows...))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(2*prefaceTimeout)))
		answer, err := io.ReadAll(conn)
		if isTimeout(err) || !strings.HasPrefix(string(answer), Greeting) {
			t.Errorf("%s: answered %q, %v", name, answer, err)
		}
		_ = conn.Close()
		if _, ok := acceptNow(m, kindHTTP); ok || m.door.of.cluster() != "" {
			t.Errorf("%s: the connection was accepted, or counts: %q", name, m.door.of.cluster())
		}
	}
}

func acceptNow(m *mux, k kind) (net.Conn, bool) {
	select {
	case conn := <-m.subs[k].accepted:
		return conn, true
	default:
		return nil, false
	}
}

// TestPacketMarks: a packet is taken of members of the own cluster and of nodes without one.
func TestPacketMarks(t *testing.T) {
	t.Parallel()
	const one, two = "0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef"
	for _, test := range []struct {
		from, to string
		taken    bool
	}{{one, one, true}, {one, two, false}, {"", one, true}, {one, "", true}, {"", "", true}} {
		body, err := unmark(mark([]byte("ping"), test.from), test.to)
		if (err == nil) != test.taken || err == nil && string(body) != "ping" {
			t.Errorf("from %q to %q: %q, %v", test.from, test.to, body, err)
		}
	}
	for _, b := range []string{"", "w", "ping", "w\x01" + strings.Repeat("x", 40)} {
		if _, err := unmark([]byte(b), one); !errors.Is(err, errUnmarked) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

// TestNamesAsVoter: which preface shows that a server forms a second cluster.
func TestNamesAsVoter(t *testing.T) {
	t.Parallel()
	self := identity{Name: "a", Identity: strings.Repeat("ab", identityBytes), Cluster: "2222", FormedAlone: true}
	p := func(change func(*clusterpb.Preface)) *clusterpb.Preface {
		p := &clusterpb.Preface{Kind: kindRaft, Target: "a.0123456789abcdef", From: &clusterpb.Introduction{Node: "b", Cluster: "1111", LeadsTerm: 4}}
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
		{"one that means this very server", p(func(p *clusterpb.Preface) { p.Target = serverID("a", self.Identity) }), self, false},
		{"something else than Raft", p(func(p *clusterpb.Preface) { p.Kind = kindGRPC }), self, false},
	} {
		if got := namesAsVoter(test.p, test.self); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
