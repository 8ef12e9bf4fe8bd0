// Package load plays the workers of a fleet: clients that open connections to one upstream through
// several proxies, as fast as they are let, and tell what became of each.
//
// A connection that is refused, could not be made, or broke after it was admitted is counted apart:
// the first is a proxy doing its work, the second a proxy that is down, the third one that broke a
// promise.
package load

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Plan says what workers do.
type Plan struct {
	Proxies []string      // host:port; worker i uses proxy i modulo their number, and no other
	Target  string        // the upstream, host:port
	Workers int           // how many, all at once
	Hold    time.Duration // how long a connection lives at the upstream
	Plain   bool          // absolute-form HTTP requests rather than CONNECT tunnels
	Pause   time.Duration // after a refusal or failure; keep it above 0 where refusals are the rule, or they eat the machine
	Total   int64         // connections to attempt in all; 0: until Stop
	Timeout time.Duration // for one attempt, waiting included; 0 means 30 s
	Dial    Dial          // how a proxy is reached; nil: as the machine does
	Fields  string        // further fields of a request, each with its CRLF
}

// Tally is what became of one proxy's attempts.
type Tally struct {
	Proxy    string
	OK       uint64            // admitted, and ended as it should
	Refused  uint64            // answered with a refusal
	Failed   uint64            // no answer: the proxy could not be reached or ended the connection
	Cut      uint64            // admitted, then broken
	Reasons  map[string]uint64 // of refusals, by Refusal.Reason
	LastFail error             // the latest of Failed and Cut
	Waits    []time.Duration   // from attempt to admission (for Plain: to the whole answer), sorted
}

// maxWaits bounds the waits kept for each worker.
const maxWaits = 1 << 14

// Run is a load under way.
type Run struct {
	plan    Plan
	left    atomic.Int64
	stop    context.CancelFunc
	workers []*worker
	wg      sync.WaitGroup
}

// Start puts the workers to work. The caller must Stop or Wait.
func Start(plan Plan) *Run {
	if plan.Timeout == 0 {
		plan.Timeout = 30 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Run{plan: plan, stop: cancel}
	r.left.Store(plan.Total)
	for i := range plan.Workers {
		w := &worker{plan: &r.plan, index: i % len(plan.Proxies)}
		w.tally.Reasons = map[string]uint64{}
		r.workers = append(r.workers, w)
		r.wg.Go(func() { w.run(ctx, r.take) })
	}
	return r
}

// Stop ends the load: attempts that wait for admission are given up uncounted, admitted ones end as
// planned.
func (r *Run) Stop() []Tally {
	r.stop()
	return r.Wait()
}

// Wait waits until Total attempts have been made.
func (r *Run) Wait() []Tally {
	r.wg.Wait()
	r.stop()
	return r.Tallies()
}

// Tallies tells what has been done so far, one tally for each proxy in the plan's order.
func (r *Run) Tallies() []Tally {
	out := make([]Tally, len(r.plan.Proxies))
	for i, p := range r.plan.Proxies {
		out[i] = Tally{Proxy: p, Reasons: map[string]uint64{}}
	}
	for _, w := range r.workers {
		w.addTo(&out[w.index])
	}
	for i := range out {
		slices.Sort(out[i].Waits)
	}
	return out
}

// take claims the next attempt.
func (r *Run) take() bool { return r.plan.Total == 0 || r.left.Add(-1) >= 0 }

// worker makes one connection after another through one proxy.
type worker struct {
	plan  *Plan
	index int // of its proxy
	keep  keptConn

	mu    sync.Mutex
	tally Tally
}

func (w *worker) run(ctx context.Context, take func() bool) {
	defer w.keep.close()
	for ctx.Err() == nil && take() {
		o := w.attempt(ctx)
		if ctx.Err() != nil && !o.admitted {
			return // given up, not failed
		}
		w.count(o)
		if o.err != nil && !pause(ctx, w.plan.Pause) {
			return
		}
	}
}

// outcome is what became of one attempt.
type outcome struct {
	admitted bool
	wait     time.Duration
	err      error
}

func (w *worker) attempt(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, w.plan.Timeout)
	defer cancel()
	begun := time.Now()
	proxy := w.plan.Proxies[w.index]
	if w.plan.Plain {
		err := w.keep.get(ctx, proxy, w.plan)
		return outcome{admitted: err == nil || errors.Is(err, errCut), wait: time.Since(begun), err: err}
	}
	t, err := Caller{Dial: w.plan.Dial, Fields: w.plan.Fields}.Connect(ctx, proxy, w.plan.Target)
	if err != nil {
		return outcome{err: err}
	}
	o := outcome{admitted: true, wait: time.Since(begun)}
	if err := t.SetDeadline(time.Now().Add(w.plan.Timeout)); err != nil {
		o.err = err
		return o
	}
	if o.err = t.Hold(w.plan.Hold); o.err == nil {
		o.err = t.End()
	}
	_ = t.Close()
	return o
}

func (w *worker) count(o outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.admitted && len(w.tally.Waits) < maxWaits {
		w.tally.Waits = append(w.tally.Waits, o.wait)
	}
	var refused *Refusal
	switch {
	case o.err == nil:
		w.tally.OK++
	case errors.As(o.err, &refused):
		w.tally.Refused++
		w.tally.Reasons[refused.Reason()]++
	case o.admitted:
		w.tally.Cut++
		w.tally.LastFail = o.err
	default:
		w.tally.Failed++
		w.tally.LastFail = o.err
	}
}

func (w *worker) addTo(t *Tally) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.OK += w.tally.OK
	t.Refused += w.tally.Refused
	t.Failed += w.tally.Failed
	t.Cut += w.tally.Cut
	for reason, n := range w.tally.Reasons {
		t.Reasons[reason] += n
	}
	if w.tally.LastFail != nil {
		t.LastFail = w.tally.LastFail
	}
	t.Waits = append(t.Waits, w.tally.Waits...)
}

// pause waits for d; false if the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
