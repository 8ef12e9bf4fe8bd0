package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// namedHosts bounds the hosts that limits delete names, of each kind.
const namedHosts = 10

// limited are the limits, and the names that count connections to hosts, the busiest first: one
// page of them.
type limited struct {
	limits []api.Limit
	names  []string
}

// limitedHosts asks for both. It returns none if they can't be listed, which must not stop a
// deletion.
func limitedHosts(ctx context.Context, c *api.Client) (l limited) {
	limits, err := c.Limits(ctx)
	if err != nil {
		return limited{}
	}
	hosts, err := c.Hosts(ctx, api.HostQuery{Sort: "in_use"})
	if err != nil {
		return limited{}
	}
	l.limits = limits.Limits
	for _, h := range hosts.Hosts {
		l.names = append(l.names, h.Host)
	}
	return l
}

// freedHosts are the hosts that a deletion has taken a cap from.
type freedHosts struct {
	all  []string                    // nothing of them is capped any more
	some map[limit.Resource][]string // this is not capped any more, but something else is
}

// without compares what governed each name with what governs it after the deletion. It does not ask
// what the names count now: a host whose port had a limit counts under another name, and its
// connections have moved there.
func (l limited) without(done api.LimitDeleted) freedHosts {
	freed := freedHosts{some: map[limit.Resource][]string{}}
	left := slices.DeleteFunc(slices.Clone(l.limits), func(l api.Limit) bool { return l.Scope == done.Scope && l.Pattern == done.Pattern })
	if done.Uncovered != nil {
		left = append(left, *done.Uncovered)
	}
	before, after := newHostCaps(l.limits), newHostCaps(left)
	for _, name := range l.names {
		target, err := exampleOf(name)
		if err != nil {
			continue
		}
		had, has := before.of(target), after.of(target)
		lost := slices.DeleteFunc(had, func(r limit.Resource) bool { return slices.Contains(has, r) })
		if len(lost) > 0 && len(has) == 0 {
			freed.all = append(freed.all, name)
			continue
		}
		for _, r := range lost {
			freed.some[r] = append(freed.some[r], name)
		}
	}
	return freed
}

// exampleOf is a target that counts under a name: of a shared pattern, any that no narrower limit
// is likely to name.
func exampleOf(name string) (limit.Target, error) {
	if suffix, found := strings.CutPrefix(name, "*."); found {
		name = "any-other." + suffix
	} else if network, err := netip.ParsePrefix(name); err == nil {
		name = network.Addr().String()
	}
	return limit.ParseOptionalPort(name) // "*" is none: a sentence of its own tells of its end
}

// hostCaps say what limits of hosts cap.
type hostCaps struct {
	table  *limit.Table
	values map[limit.Pattern]api.Limit
}

func newHostCaps(limits []api.Limit) hostCaps {
	c := hostCaps{values: map[limit.Pattern]api.Limit{}}
	var all []limit.Limit
	for _, l := range limits {
		if l.Scope != limit.ScopeHost.String() {
			continue
		}
		if p, err := limit.ParsePattern(l.Pattern); err == nil {
			all = append(all, limit.Limit{Pattern: p})
			c.values[p] = l
		}
	}
	c.table = limit.NewTable(0, 0, all)
	return c
}

// of returns what is capped for a target. A limit that only reports caps nothing.
func (c hostCaps) of(target limit.Target) (capped []limit.Resource) {
	governing, _ := c.table.Match(target)
	if governing == nil {
		return nil
	}
	l := c.values[governing.Pattern]
	for r, isCapped := range map[limit.Resource]bool{
		limit.Connections: l.Connections != nil,
		limit.Requests:    l.Requests != nil,
		limit.Upload:      l.Bandwidth != nil && l.Bandwidth.Upload != "",
		limit.Download:    l.Bandwidth != nil && l.Bandwidth.Download != "",
	} {
		if isCapped && l.Mode != api.ModeReport {
			capped = append(capped, r)
		}
	}
	return capped
}

// write names the hosts, a line for each kind.
func (f freedHosts) write(w io.Writer) {
	line := func(what string, names []string) {
		if len(names) == 0 {
			return
		}
		more := ""
		if n := len(names) - namedHosts; n > 0 {
			more = fmt.Sprintf(", and %d more", n)
			names = names[:namedHosts]
		}
		fmt.Fprintf(w, "No longer capped%s: %s%s\n", what, printable(strings.Join(names, ", ")), more)
	}
	line("", f.all)
	for _, r := range limit.Resources {
		line(" in "+r.String(), f.some[r])
	}
}
