package server

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/api"
)

// watchAnswer answers GET /v1/watch, which nodes ask each other: this node's use, and the events
// that only it knows.
type watchAnswer struct {
	// Cursor is the value of after for the next call.
	Cursor string      `json:"cursor"`
	Events []api.Event `json:"events"`
	Hosts  []api.Host  `json:"hosts"` // unless hosts=false
}

const (
	pathWatch   = "/v1/watch"
	watchEvery  = time.Second
	watchSoon   = 200 * time.Millisecond // minimum between two looks; a new client does not wait for the next second
	watchWait   = watchEvery - watchSoon // for the other nodes' answers, so that the next look is in time
	watchIdle   = 5 * time.Second        // between two fetches of events that would die with the leader
	mostWatcher = maxConns / 2           // streams are long-lived: calls and probes keep the other places
	frameQueue  = 4                      // seconds by which a reader may be late
)

// watcher looks at the whole cluster once a second while there are watching clients, and sends them
// the result. Without clients, a server still fetches other nodes' events at intervals, so that
// events known only to a leader outlive it.
type watcher struct {
	s *Server

	mu       sync.Mutex
	watching map[*watch]struct{}
	closed   bool
	began    chan struct{} // of capacity 1: a client has begun to watch

	// Owned by run.
	cursors map[string]string   // of other nodes
	hosts   map[string]api.Host // as they were sent last
}

// watch is one client's subscription. Its frames channel is closed when the client was too slow, or
// the node stops.
type watch struct {
	frames chan []byte
	fresh  bool // it has received no frame yet
}

func newWatcher(s *Server) *watcher {
	return &watcher{
		s: s, watching: make(map[*watch]struct{}), began: make(chan struct{}, 1),
		cursors: make(map[string]string), hosts: make(map[string]api.Host),
	}
}

// begin adds a client, until end.
func (wr *watcher) begin() (*watch, error) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	if wr.closed || len(wr.watching) == mostWatcher {
		return nil, problemf(http.StatusServiceUnavailable, "too_many_watchers", "%d clients follow this node's events already, or it is stopping", len(wr.watching))
	}
	w := &watch{frames: make(chan []byte, frameQueue), fresh: true}
	wr.watching[w] = struct{}{}
	select {
	case wr.began <- struct{}{}:
	default:
	}
	return w, nil
}

func (wr *watcher) end(w *watch) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	if _, ok := wr.watching[w]; ok {
		delete(wr.watching, w)
		close(w.frames)
	}
}

// close ends all watches, and refuses new ones.
func (wr *watcher) close() {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.closed = true
	for w := range wr.watching {
		delete(wr.watching, w)
		close(w.frames)
	}
}

func (wr *watcher) watched() bool {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	return len(wr.watching) > 0
}

// run looks until ctx ends.
func (wr *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		server := wr.s.deps.Status.Status().Role == "server"
		watched := wr.watched()
		if watched || server {
			wr.look(ctx, watched)
		}
		if !sleep(ctx, watchSoon) {
			return
		}
		pause := watchIdle
		if watched {
			pause = watchEvery
		}
		t := time.NewTimer(pause - time.Since(began))
		select {
		case <-t.C:
		case <-wr.began:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// look asks the other nodes, and sends the changes to all watching clients. The leader is asked for
// the nodes at the same time: its answer does not depend on the others'.
func (wr *watcher) look(ctx context.Context, hosts bool) {
	ctx, cancel := context.WithTimeout(ctx, watchWait)
	defer cancel()
	sum := make(hostSum)
	var nodes []byte
	var asking sync.WaitGroup
	if hosts {
		sum = newHostSum(wr.s.localHosts())
		asking.Go(func() { nodes = wr.nodes(ctx) })
	}
	missing := wr.fetch(ctx, hosts, sum)
	asking.Wait()
	if !hosts {
		return
	}
	now := time.Now().UTC().Round(time.Millisecond)
	seen, more := wr.most(sum.hosts())
	changed := api.UseFrame{Time: now, Hosts: []api.Host{}, More: more, Limits: wr.s.deps.View.Table().Index, Unreachable: missing}
	full := changed
	full.Full, full.Hosts = true, seen
	next := make(map[string]api.Host, len(seen))
	for _, h := range seen {
		next[h.Host] = h
		if before, ok := wr.hosts[h.Host]; !ok || !sameUse(before, h) {
			changed.Hosts = append(changed.Hosts, h)
		}
	}
	for name := range wr.hosts {
		if _, ok := next[name]; !ok {
			changed.Gone = append(changed.Gone, name)
		}
	}
	slices.Sort(changed.Gone)
	wr.hosts = next
	state := append(wr.status(), nodes...)
	wr.send(slices.Concat(state, frame("", "use", full)), slices.Concat(state, frame("", "use", changed)))
}

// fetch fetches from each other node the events that only it knows and, into sum, its hosts.
func (wr *watcher) fetch(ctx context.Context, hosts bool, sum hostSum) []api.Unreachable {
	var mu sync.Mutex
	type reported struct {
		node string
		watchAnswer
	}
	var all []reported
	missing := fanOutEach(wr.s, ctx, func(p Peer) *url.URL {
		q := url.Values{"after": {wr.cursors[p.Name]}}
		if !hosts {
			q.Set("hosts", "false")
		}
		return &url.URL{Path: pathWatch, RawQuery: q.Encode()}
	}, func(node string, w watchAnswer) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, reported{node, w})
	})
	// In whichever order the answers came, the sums of rates are rounded in the same way.
	slices.SortFunc(all, func(a, b reported) int { return strings.Compare(a.node, b.node) })
	var events []api.Event
	for _, t := range all {
		wr.cursors[t.node] = t.Cursor
		events = append(events, t.Events...)
		sum.add(t.Hosts)
	}
	wr.forgetCursors(func(node string) bool {
		return slices.ContainsFunc(all, func(t reported) bool { return t.node == node }) ||
			slices.ContainsFunc(missing, func(u api.Unreachable) bool { return u.Node == node })
	})
	if len(events) > 0 {
		slices.SortStableFunc(events, func(a, b api.Event) int { return a.Time.Compare(b.Time) })
		wr.s.events.take(events)
	}
	return missing
}

// maxCursors bounds the cursors that are kept beyond those of present nodes.
const maxCursors = 1024

// forgetCursors forgets nodes that are gone, once there are many cursors. Until then, a node that
// returns continues at its cursor.
func (wr *watcher) forgetCursors(there func(node string) bool) {
	if len(wr.cursors) < maxCursors {
		return
	}
	for node := range wr.cursors {
		if !there(node) {
			delete(wr.cursors, node)
		}
	}
}

// most keeps the hosts with the most use, as many as one answer holds.
func (wr *watcher) most(hosts []api.Host) (kept []api.Host, more int) {
	if len(hosts) > usesMost {
		slices.SortFunc(hosts, func(a, b api.Host) int {
			if d := (b.InUse + b.Waiting) - (a.InUse + a.Waiting); d != 0 {
				return int(d)
			}
			return strings.Compare(a.Host, b.Host)
		})
		hosts, more = hosts[:usesMost], len(hosts)-usesMost
	}
	slices.SortFunc(hosts, func(a, b api.Host) int { return strings.Compare(a.Host, b.Host) })
	return hosts, more
}

func sameUse(a, b api.Host) bool {
	return a.Pattern == b.Pattern && sameNumbers(a.Use, b.Use) && maps.EqualFunc(a.Nodes, b.Nodes, sameNumbers)
}

// sameNumbers compares what the pointers show: they are new each second.
func sameNumbers(a, b api.Use) bool {
	if !sameAt(a.Limit, b.Limit) || !sameRate(a.Requests, b.Requests) || !sameBandwidth(a.Bandwidth, b.Bandwidth) {
		return false
	}
	a.Limit, a.Requests, a.Bandwidth = nil, nil, nil
	b.Limit, b.Requests, b.Bandwidth = nil, nil, nil
	return a == b
}

func sameBandwidth(a, b *api.BandwidthUse) bool {
	if a == nil || b == nil {
		return a == b
	}
	return sameRate(a.Upload, b.Upload) && sameRate(a.Download, b.Download)
}

// sameRate compares also what changes without use: a level that rises must be shown.
func sameRate(a, b *api.RateUse) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Unassigned, y.Unassigned = nil, nil
	return x == y && sameAt(a.Unassigned, b.Unassigned)
}

func sameAt[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// status and nodes return the frames of GET /v1/status and /v1/nodes.
func (wr *watcher) status() []byte {
	a, err := wr.s.status(&http.Request{URL: &url.URL{}})
	if err != nil {
		return nil
	}
	return frame("", "status", a.body)
}

func (wr *watcher) nodes(ctx context.Context) []byte {
	r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: api.PathNodes}, Header: http.Header{}}).WithContext(ctx)
	if rep, ok := wr.s.askLeader(r); ok {
		return frame("", "nodes", json.RawMessage(bytes.TrimSpace(rep.body)))
	}
	a, err := wr.s.nodes(r, true)
	if err != nil {
		return nil
	}
	return frame("", "nodes", a.body)
}

// send queues a frame for all watching clients: full for a new one, changed for the others. A
// client that has not read for some seconds is disconnected, and can reconnect.
func (wr *watcher) send(full, changed []byte) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	for w := range wr.watching {
		data := changed
		if w.fresh {
			data, w.fresh = full, false
		}
		select {
		case w.frames <- data:
		default:
			wr.s.log.Debug("a client that follows the events does not read them; it is let go")
			delete(wr.watching, w)
			close(w.frames)
		}
	}
}

// watchPeer answers GET /v1/watch[?after=&hosts=false].
func (s *Server) watchPeer(r *http.Request) (answer, error) {
	q, err := query(r, "after", "hosts")
	if err != nil {
		return answer{}, err
	}
	body := watchAnswer{Hosts: []api.Host{}}
	if q.Get("hosts") != "false" {
		body.Hosts = s.localHosts()
	}
	body.Events, body.Cursor = s.events.own(q.Get("after"))
	return answer{body: body}, nil
}
