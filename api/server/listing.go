package server

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

const (
	usesDefault = 1000
	usesMost    = 10_000
)

// listing is a query for what counts in a scope. What is counted is a Host here, whatever its
// scope.
type listing struct {
	scope  limit.Scope
	prefix string
	order  string // "": by name
	limit  int    // 0: all
	after  cursor
	local  bool
}

// cursor is the end of a page: the last name and, unless sorted by name, the number that it was
// sorted by.
type cursor struct {
	set   bool
	count uint64
	host  string
	// now: use the name's present number, because the client sent only a name, as from a list that
	// it was shown.
	now bool
}

// useCounts returns the numbers that can be sorted by.
func useCounts() map[string]func(api.Use) uint64 {
	return map[string]func(api.Use) uint64{
		"granted":            func(u api.Use) uint64 { return uint64(max(0, u.Granted)) },
		"in_use":             func(u api.Use) uint64 { return uint64(max(0, u.InUse)) },
		"waiting":            func(u api.Use) uint64 { return uint64(max(0, u.Waiting)) },
		"admitted_total":     func(u api.Use) uint64 { return u.Admitted },
		"rejected_total":     func(u api.Use) uint64 { return u.Rejected },
		"would_reject_total": func(u api.Use) uint64 { return u.WouldReject },

		"requests": func(u api.Use) uint64 { return rateNow(u.Requests) },
		"upload":   func(u api.Use) uint64 { return rateNow(direction(u.Bandwidth, limit.Upload)) },
		"download": func(u api.Use) uint64 { return rateNow(direction(u.Bandwidth, limit.Download)) },
	}
}

// rateNow is the rate now, in thousandths a second, so that slow rates have an order too.
func rateNow(r *api.RateUse) uint64 {
	if r == nil {
		return 0
	}
	return uint64(max(0, r.Now) * 1000)
}

func direction(b *api.BandwidthUse, r limit.Resource) *api.RateUse {
	switch {
	case b == nil:
		return nil
	case r == limit.Upload:
		return b.Upload
	}
	return b.Download
}

// byName is the order by name: in /v1/hosts it has the name of its field.
func byName(scope limit.Scope, r *http.Request) string {
	if scope == limit.ScopeHost && strings.HasPrefix(r.URL.Path, api.PathHosts) {
		return "host"
	}
	return "name"
}

func parseListing(r *http.Request, scope limit.Scope) (listing, error) {
	name := byName(scope, r)
	l := listing{scope: scope, order: name}
	q, err := query(r, "prefix", "sort", "limit", "after", "local")
	if err != nil {
		return l, err
	}
	if l.local, err = queryBool(q, "local"); err != nil {
		return l, err
	}
	l.prefix = l.fold(q.Get("prefix"))
	if q.Has("sort") {
		l.order = q.Get("sort")
	}
	if _, ok := useCounts()[l.order]; !ok && l.order != name {
		return l, malformed("sort is %s, in_use, granted, waiting, admitted_total, rejected_total, would_reject_total, requests, upload or download, not %q", name, l.order)
	}
	if l.order == name {
		l.order = ""
	}
	if !l.local {
		l.limit = usesDefault
	}
	if q.Has("limit") {
		l.limit, err = strconv.Atoi(q.Get("limit"))
		if err != nil || l.limit < 1 || l.limit > usesMost && !l.local {
			return l, malformed("limit is a number from 1 to %d, not %q", usesMost, q.Get("limit"))
		}
	}
	l.after, err = l.parseCursor(q)
	return l, err
}

// fold spells the beginning of a name as names of the scope are spelled: those of hosts and
// addresses are in lower case.
func (l listing) fold(s string) string {
	if l.scope == limit.ScopeHost || l.scope == limit.ScopeClient {
		return strings.ToLower(s)
	}
	return s
}

func (l listing) parseCursor(q url.Values) (cursor, error) {
	after := q.Get("after")
	if after == "" {
		return cursor{}, nil
	}
	if l.order == "" {
		return cursor{set: true, host: l.fold(after)}, nil
	}
	count, host, ok := strings.Cut(after, "/")
	if n, err := strconv.ParseUint(count, 10, 64); ok && err == nil {
		return cursor{set: true, count: n, host: host}, nil
	}
	p, err := l.scope.ParsePattern(after)
	if err != nil {
		return cursor{}, malformed("after is a name of the list, or what an answer with the same sort gave as next, not %q", after)
	}
	return cursor{set: true, host: p.String(), now: true}, nil
}

// page sorts hosts, and returns one page of them and the next cursor.
func (l listing) page(hosts []api.Host) (page []api.Host, next string) {
	count, byCount := useCounts()[l.order]
	compare := func(n uint64, host string, b api.Host) int {
		if byCount {
			if c := cmp.Compare(count(b.Use), n); c != 0 {
				return c
			}
		}
		return strings.Compare(host, b.Host)
	}
	of := func(h api.Host) uint64 {
		if byCount {
			return count(h.Use)
		}
		return 0
	}
	if i := slices.IndexFunc(hosts, func(h api.Host) bool { return h.Host == l.after.host }); l.after.now && i >= 0 {
		l.after.count = of(hosts[i]) // one that isn't listed has no use: 0
	}
	page = slices.DeleteFunc(hosts, func(h api.Host) bool {
		return !strings.HasPrefix(h.Host, l.prefix) || l.after.set && compare(l.after.count, l.after.host, h) >= 0
	})
	slices.SortFunc(page, func(a, b api.Host) int { return compare(of(a), a.Host, b) })
	if l.limit == 0 || len(page) <= l.limit {
		return page, ""
	}
	page = page[:l.limit]
	last := page[l.limit-1]
	if byCount {
		return page, fmt.Sprintf("%d/%s", of(last), last.Host)
	}
	return page, last.Host
}
