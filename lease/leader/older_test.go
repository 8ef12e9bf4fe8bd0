package leader

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// An older node is refused by name once limits are in force that it can't read, at its hello and on
// its stream, and opens no session. A node that can read them is served.
func TestOlderNodeIsRefusedByName(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
	d.joinAs(1, &leasepb.Hello{Protocol: leasepb.Version, Node: "old", Identity: "1"})
	d.demand(1, &leasepb.Demand{Waiting: 2})
	d.turn()
	session := d.alloc.conns[1].ID
	d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: leasepb.Version, Node: "new", Identity: "2", LimitsVersion: leasepb.LimitsVersion})
	d.alloc.proof(2)
	d.turn()

	l := rateLimit(t, "1/s", 5)
	l.Source = limit.SourceAPI
	put := func(c fsm.Command) map[uint64]string {
		d.apply(c)
		d.alloc.LimitsChanged(d.now, d.state)
		return ends(d.turn())
	}
	if got := put(&fsm.PutLimit{Limit: l}); len(got) != 1 || !strings.Contains(got[1], "node old runs an older version") {
		t.Fatalf("streams end: %v", got)
	}
	if d.alloc.conns[1] != nil || d.alloc.conns[2] == nil {
		t.Error("the wrong stream has ended")
	}
	for name, h := range map[string]*leasepb.Hello{
		"goes on": {Protocol: leasepb.Version, Node: "old", Identity: "1", Session: session},
		"begins":  {Protocol: leasepb.Version, Node: "old", Identity: "1"},
		"knows 2": {Protocol: leasepb.Version, Node: "old", Identity: "1", Session: session, LimitsVersion: 2},
	} {
		index := d.index
		d.alloc.hello(d.now, d.state, 3, h)
		d.alloc.proof(3)
		if got := ends(d.turn()); !strings.Contains(got[3], "node old runs an older version") || d.index != index {
			t.Errorf("%s: streams end: %v, with %d entries", name, got, d.index-index)
		}
	}
	if err := d.alloc.Check(); err != nil {
		t.Error(err)
	}

	// Without such limits it is served again.
	if got := put(&fsm.DeleteLimit{Pattern: l.Pattern}); len(got) != 0 {
		t.Errorf("streams end: %v", got)
	}
	d.alloc.hello(d.now, d.state, 4, &leasepb.Hello{Protocol: leasepb.Version, Node: "old", Identity: "1", Session: session})
	if got := ends(d.turn()); len(got) != 0 || d.alloc.conns[4] == nil {
		t.Errorf("streams end: %v", got)
	}
}

// Limits that change while a session is being opened are not sent to a node that can't read them.
func TestOlderNodeWhileLimitsChange(t *testing.T) {
	d := newDesk(t)
	d.alloc.hello(d.now, d.state, 1, &leasepb.Hello{Protocol: leasepb.Version, Node: "old", Identity: "1"})
	d.alloc.proof(1)
	cmd := d.alloc.Next(d.now, d.state)
	res := d.apply(cmd)
	l := rateLimit(t, "1/s", 5)
	d.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{l}})
	d.alloc.LimitsChanged(d.now, d.state)
	d.alloc.Take()
	d.alloc.Applied(d.now, d.state, res)
	for _, o := range d.alloc.Take() {
		if o.Msg.GetLimits() != nil {
			t.Error("it is sent limits that it can't read")
		}
	}
	if err := d.alloc.Check(); err != nil || len(d.alloc.conns) != 0 {
		t.Errorf("%d streams are served; %v", len(d.alloc.conns), err)
	}
}

// ends are the streams that end, and why.
func ends(out []Outbound) map[uint64]string {
	all := map[uint64]string{}
	for _, o := range out {
		if o.End {
			all[o.Conn] = o.Msg.GetRefused().GetDetail()
		}
	}
	return all
}

// What a table needs of a node is what it needs of the log.
func TestVersionOfLimits(t *testing.T) {
	host := kit.Limit(t, "up", 3, limit.Queue{Timeout: time.Second, Size: 1})
	report, rate, bandwidth := host, host, host
	report.Report = true
	rate.Requests = rateLimit(t, "1/s", 5).Requests
	bandwidth.Bandwidth.Upload = 1
	for name, l := range map[string]limit.Limit{"host": host, "report": report, "rate": rate, "bandwidth": bandwidth, "total": rateLimit(t, "1/s", 5)} {
		want := fsm.VersionOf(&fsm.PutLimit{Limit: l})
		if got := leasepb.VersionOf(limit.NewTable(1, 1, []limit.Limit{host, l})); got != want {
			t.Errorf("%s: %d, the log needs %d", name, got, want)
		}
	}
}

// The leader's log says who is refused, once in a while.
func TestRefusedNodeIsLogged(t *testing.T) {
	var text bytes.Buffer
	l := &leadership{start: time.Now(), logger: hclog.New(&hclog.LoggerOptions{Output: &text}), refused: map[string]time.Duration{}}
	for range 3 {
		l.noteRefusal(refusal(leasepb.Refused_REASON_PROTOCOL, "node old runs", 0).GetRefused())
		l.noteRefusal(refusal(leasepb.Refused_REASON_NAME_HELD, "another matter", 0).GetRefused())
		l.noteRefusal(nil)
	}
	if n := strings.Count(text.String(), "node old runs"); n != 1 || strings.Contains(text.String(), "another matter") {
		t.Errorf("the log has:\n%s", &text)
	}
}
