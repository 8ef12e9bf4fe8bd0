package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/upstream"
)

// Between two looks at the nodes: fast enough to follow on a terminal, sparing in a file.
const (
	everyInPlace = 200 * time.Millisecond
	everyLine    = time.Second
)

// host is what GET /v1/hosts/{host} says, as far as the line shows it.
type host struct {
	Limit    *int           `json:"limit"`
	Waiting  int            `json:"waiting"`
	Admitted uint64         `json:"admitted_total"`
	Rejected uint64         `json:"rejected_total"`
	Nodes    map[string]use `json:"nodes"`
}

type use struct {
	InUse int `json:"in_use"`
}

// drive runs the upstream and the workers until ctx is over, and shows the line.
func drive(ctx context.Context, o options, members []member, out io.Writer, inPlace bool) error {
	up, err := upstream.Start("127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	defer func() { _ = up.Close() }()
	name, _, err := net.SplitHostPort(up.Addr())
	if err != nil {
		return err
	}
	v := &viewer{members: members, client: &http.Client{Timeout: time.Second}, host: name}
	defer v.client.CloseIdleConnections()
	if err := v.setLimit(ctx, o.limit); err != nil {
		return err
	}
	var proxies []string
	for _, m := range members {
		proxies = append(proxies, m.proxy)
	}
	workers := load.Start(load.Plan{
		Proxies: proxies, Target: up.Addr(), Workers: o.workers, Hold: o.hold, Pause: 20 * time.Millisecond,
	})
	defer workers.Stop()
	fmt.Fprintf(out, "%d workers, connections of %v to %s. Change its limit through any node:\n", o.workers, o.hold, up.Addr())
	fmt.Fprintf(out, "  bin/weir limits set %s --connections 3 --addr http://%s\n", name, members[len(members)-1].api)
	fmt.Fprintln(out, "Below: its limit, the connections that it sees now and saw at most, and each node's part of them.")
	return v.follow(ctx, up, out, inPlace)
}

// viewer asks the nodes about one host: the first that answers.
type viewer struct {
	members []member
	client  *http.Client
	host    string
}

// follow writes a line at every tick: over the last one on a terminal, below it elsewhere.
func (v *viewer) follow(ctx context.Context, up *upstream.Server, out io.Writer, inPlace bool) error {
	every, before, after := everyLine, "", "\n"
	if inPlace {
		every, before, after = everyInPlace, "\r\x1b[K\x1b[?7l", "\x1b[?7h" // cut at the terminal's edge, not wrapped
		defer fmt.Fprintln(out)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last host
	lastAt := time.Now()
	settling := false // since the limit was changed, the upstream has not been within it
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := v.read(ctx)
		if err != nil {
			fmt.Fprint(out, before, "no node answers: ", err, after)
			continue
		}
		settling = settling || !sameLimit(now, last)
		if settling && within(up.Stats().Open, now) {
			up.Reset() // the most from here on is the new limit's
			settling = false
		}
		at := time.Now()
		fmt.Fprint(out, before, render(up.Stats(), now, last, at.Sub(lastAt)), after)
		last, lastAt = now, at
	}
}

// render is the line: what the upstream sees beside what the nodes say, and rates since the last
// look.
func render(s upstream.Stats, now, last host, since time.Duration) string {
	limit := "none"
	if now.Limit != nil {
		limit = fmt.Sprint(*now.Limit)
	}
	names := make([]string, 0, len(now.Nodes))
	for name := range now.Nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	uses := make([]string, len(names))
	for i, name := range names {
		uses[i] = fmt.Sprintf("%s %d", name, now.Nodes[name].InUse)
	}
	const line = "limit %s | upstream %d, peak %d | %s | %d waiting | %.0f/s ok, %.0f/s refused"
	return fmt.Sprintf(line, limit, s.Open, s.Peak, strings.Join(uses, " "), now.Waiting,
		rate(now.Admitted, last.Admitted, since), rate(now.Rejected, last.Rejected, since))
}

func sameLimit(a, b host) bool {
	return a.Limit == b.Limit || (a.Limit != nil && b.Limit != nil && *a.Limit == *b.Limit)
}

func within(open int, h host) bool { return h.Limit == nil || open <= *h.Limit }

// rate is 0 where a counter went back, as when a node restarts.
func rate(now, last uint64, since time.Duration) float64 {
	if now < last || since <= 0 {
		return 0
	}
	return float64(now-last) / since.Seconds()
}

func (v *viewer) read(ctx context.Context) (h host, err error) {
	err = v.any(ctx, http.MethodGet, "/v1/hosts/"+v.host, "", &h)
	return h, err
}

func (v *viewer) setLimit(ctx context.Context, connections int) error {
	body := fmt.Sprintf(`{"connections":%d,"queue":{"timeout":"5s","size":1000}}`, connections)
	return v.any(ctx, http.MethodPut, "/v1/limits/host/"+v.host, body, nil)
}

// any makes a call to the first node that answers it with 200, and decodes the answer into into
// unless it is nil.
func (v *viewer) any(ctx context.Context, method, path, body string, into any) (err error) {
	for _, m := range v.members {
		if err = v.call(ctx, method, "http://"+m.api+path, body, into); err == nil {
			return nil
		}
	}
	return err
}

func (v *viewer) call(ctx context.Context, method, url, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
