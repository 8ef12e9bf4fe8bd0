package leasetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// trace is a readable account of a run: its faults, and the last lines, up to the breach. A nil
// trace notes nothing.
type trace struct {
	kept   int
	ring   []string
	next   int
	faults []string
}

func (t *trace) add(now time.Duration, who, what string) {
	line := fmt.Sprintf("%12v  %-6s %s", now.Round(time.Microsecond), who, what)
	if len(t.ring) < t.kept {
		t.ring = append(t.ring, line)
		return
	}
	t.ring[t.next] = line
	t.next = (t.next + 1) % t.kept
}

func (t *trace) note(now time.Duration, who string, what ...any) {
	if t == nil {
		return
	}
	for i, w := range what {
		if c, ok := w.(fsm.Command); ok {
			what[i] = describe(c)
		}
	}
	t.add(now, who, strings.TrimSuffix(fmt.Sprintln(what...), "\n"))
}

func (t *trace) fault(now time.Duration, f Fault, who string) {
	if t == nil {
		return
	}
	t.add(now, "FAULT", who+" "+f.String())
	t.faults = append(t.faults, t.last())
}

func (t *trace) last() string {
	if len(t.ring) < t.kept {
		return t.ring[len(t.ring)-1]
	}
	return t.ring[(t.next+t.kept-1)%t.kept]
}

func (t *trace) conn(now time.Duration, c *conn, what string, h *hostInfo) {
	if t == nil {
		return
	}
	t.add(now, c.x.name, fmt.Sprintf("%s a connection to %s, of session %d: %d", what, h.name, c.claims[hostClaim].session, h.open))
}

// update is what a node says of its demands.
func (t *trace) update(now time.Duration, node string, u *leasepb.Update) {
	if t == nil {
		return
	}
	var b strings.Builder
	b.WriteString("says:")
	for _, r := range u.Releases {
		fmt.Fprintf(&b, " %d of %s given back", r.Slots, r.Key.Name)
	}
	for _, d := range u.Demands {
		fmt.Fprintf(&b, " %s held %d used %d parked %d waiting %d refused %d ask %d", d.Key.Name, d.Held, d.InUse, d.Parked, d.Waiting, d.Refused, d.Ask)
	}
	t.add(now, node, b.String())
}

func (t *trace) entry(now time.Duration, term uint64, cmd fsm.Command, res fsm.Result) {
	if t == nil {
		return
	}
	what := describe(cmd)
	if _, ok := cmd.(*fsm.Adjust); ok {
		what = "adjusted" + adjustments(res.Adjusted)
	}
	if res.Session != 0 {
		what += fmt.Sprintf(": session %d", res.Session)
	}
	if res.TookOver != 0 {
		what += fmt.Sprintf(" takes over %d", res.TookOver)
	}
	if len(res.Freed) > 0 {
		what += ", freed" + adjustments(res.Freed)
	}
	if res.Err != nil {
		what += ": " + res.Err.Error()
	}
	t.add(now, "log", fmt.Sprintf("term %d: %s", term, what))
}

func describe(cmd fsm.Command) string {
	switch c := cmd.(type) {
	case *fsm.OpenSession:
		return "open a session for " + c.Node + " " + c.Identity
	case *fsm.CloseSessions:
		return fmt.Sprintf("close sessions %v", c.Sessions)
	case *fsm.Adjust:
		return "adjust" + adjustments(c.Adjustments)
	case *fsm.PutLimit:
		return fmt.Sprintf("limit %s to %d, shared %v, evict %v", c.Limit.Pattern, c.Limit.Connections, c.Limit.Shared, c.Limit.Evict)
	case *fsm.DeleteLimit:
		return "remove the limit " + c.Pattern.String()
	}
	return fmt.Sprintf("%T", cmd)
}

func adjustments(as []fsm.Adjustment) string {
	var b strings.Builder
	for _, a := range as {
		fmt.Fprintf(&b, " %d:%s%+d", a.Session, a.Key, a.Delta)
	}
	return b.String()
}

func (t *trace) assign(now time.Duration, node string, a *leasepb.Assign) {
	var b strings.Builder
	b.WriteString("hears:")
	for _, g := range a.Grants {
		fmt.Fprintf(&b, " %d slots of %s", g.Slots, g.Key.Name)
	}
	for _, g := range a.Targets {
		fmt.Fprintf(&b, " come down to %d of %s (contended %v)", g.Slots, g.Key.Name, g.Contended)
	}
	for _, g := range a.Answers {
		fmt.Fprintf(&b, " nothing free of %s", g.Key.Name)
	}
	t.add(now, node, b.String())
}

// String is the account: the faults, and what came last.
func (t *trace) String() string {
	var b strings.Builder
	b.WriteString("faults:\n")
	for _, line := range t.faults {
		b.WriteString(line + "\n")
	}
	b.WriteString("what came last:\n")
	for i := range t.ring {
		b.WriteString(t.ring[(t.next+i)%len(t.ring)] + "\n")
	}
	return b.String()
}
