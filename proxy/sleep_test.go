package proxy

import (
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// sleepingTunnel opens a tunnel, uses it once, and waits until both directions sleep.
func (w *world) sleepingTunnel(u *upstream) (p, q *peer, f *flow) {
	w.t.Helper()
	p = w.connect(u.addr)
	q = u.accept()
	p.send("ping")
	q.expect("ping")
	q.send("pong")
	p.expect("pong")
	f = w.flows.all()[0]
	w.sleep(f)
	return p, q, f
}

// sleep puts the awake directions of a tunnel to sleep.
func (w *world) sleep(f *flow) {
	w.t.Helper()
	f.putToSleep()
	eventually(w.t, "both directions sleep", func() bool { return f.sleeping()|f.fins.Load() == finUp|finDown })
}

func (f *flow) sleeping() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slumber.asleep
}

// pumps returns the number of relaying goroutines.
func pumps() int { return pumpsThat("") }

// pumpsThat returns the number of relaying goroutines in a state, such as "IO wait"; "" is any.
func pumpsThat(state string) (n int) {
	stacks := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, "proxy.(*flow).pump(") && strings.Contains(head, "["+state) {
			n++
		}
	}
	return n
}

// A sleeping tunnel holds no goroutine, and wakes without loss.
func TestTunnelSleeps(t *testing.T) {
	w := newWorld(t, 1)
	u := newUpstream(t, nil)
	p, q, f := w.sleepingTunnel(u)
	eventually(t, "no goroutine relays", func() bool { return pumps() == 0 })
	for range 3 {
		p.send("up")
		q.expect("up")
		q.send("down")
		p.expect("down")
		w.sleep(f)
	}
	const much = 1 << 20
	go io.Copy(q, noise(1, much))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.Copy(p, noise(2, much))
	}()
	sameBytes(t, "down", io.LimitReader(p.r, much), noise(1, much))
	sameBytes(t, "up", io.LimitReader(q.r, much), noise(2, much))
	<-sent
	w.sleep(f)
	p.CloseWrite()
	q.expectEOF()
	w.sleep(f)
	q.send("last")
	p.expect("last")
	w.sleep(f)
	q.CloseWrite()
	p.expectEOF()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// Everything that ends a tunnel ends a sleeping one.
func TestDozingTunnelEnds(t *testing.T) {
	for name, c := range map[string]struct {
		do         func(w *world, p, q *peer, f *flow)
		end        error
		p, q       func(*peer) // checks the end at the peers that did not cause it
		idle, half time.Duration
	}{
		"upstream closes": {do: func(_ *world, p, q *peer, _ *flow) { q.CloseWrite(); p.expectEOF(); p.CloseWrite() }, q: (*peer).expectEOF},
		"client resets":   {do: func(_ *world, p, _ *peer, _ *flow) { p.reset() }, q: (*peer).expectReset, end: errClientReset},
		"upstream resets": {do: func(_ *world, _, q *peer, _ *flow) { q.reset() }, p: (*peer).expectReset, end: errUpstreamReset},
		"operator": {do: func(w *world, _, _ *peer, _ *flow) { w.CloseConnection(w.Connections("")[0].ID) },
			p: (*peer).expectReset, q: (*peer).expectReset, end: errClosed},
		"fence": {do: func(_ *world, _, _ *peer, f *flow) { f.abort(errFenced) }, p: (*peer).expectReset, q: (*peer).expectReset, end: errFenced},
		"lease": {do: func(w *world, p, _ *peer, _ *flow) { w.adm.slots()[0].live.Store(false); p.send("too late") },
			p: (*peer).expectReset, q: (*peer).expectReset, end: errFenced},
		"idle timeout": {do: func(*world, *peer, *peer, *flow) {}, p: (*peer).expectReset, q: (*peer).expectReset, end: errIdle,
			idle: 50 * time.Millisecond},
		"half-close timeout": {do: func(w *world, p, _ *peer, f *flow) {
			p.CloseWrite()
			eventually(w.t, "the FIN is passed on", func() bool { return f.fins.Load() == finUp })
			w.sleep(f)
		}, p: (*peer).expectReset, end: errHalfClose, half: 50 * time.Millisecond},
		"shutdown": {do: func(w *world, _, _ *peer, _ *flow) { w.Close() }, p: (*peer).expectReset, q: (*peer).expectReset, end: errShutdown},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, policy(func(p *Policy) {
				p.TunnelIdleTimeout = c.idle
				if c.half > 0 {
					p.HalfCloseTimeout = c.half
				}
			}))
			u := newUpstream(t, nil)
			p, q, f := w.sleepingTunnel(u)
			c.do(w, p, q, f)
			if c.p != nil {
				c.p(p)
			}
			if c.q != nil {
				c.q(q)
			}
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
			if cause := f.endCause(); cause != c.end {
				t.Errorf("ended by %v, want %v", cause, c.end)
			}
		})
	}
}

// One direction sleeps while the other is stuck in a write, and wakes alone.
func TestDirectionsSleepApart(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	p, q, f := w.sleepingTunnel(u)
	const much = 64 << 20
	poured := make(chan struct{})
	go func() {
		defer close(poured)
		io.Copy(q, noise(1, much))
	}()
	last, unchanged := uint64(0), 0
	eventually(t, "the client's window is closed", func() bool {
		unchanged++
		if out := f.out.Load(); out != last {
			last, unchanged = out, 0
		}
		return last > 0 && unchanged > 50
	})
	f.putToSleep()
	for range 2 {
		eventually(t, "the client's direction sleeps", func() bool { return f.sleeping() == finUp })
		p.send("still here")
		q.expect("still here")
		f.putToSleep()
	}
	p.reset()
	<-poured
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// A tunnel sleeps after one idle check, and after more each time that it has woken.
func TestPatience(t *testing.T) {
	var r registry
	f := &flow{}
	r.add(f)
	if len(r.quiet()) != 0 {
		t.Fatal("a flow that is no tunnel sleeps")
	}
	looks := func() (n int) {
		for n = 1; len(r.quiet()) == 0; n++ {
			if n > 1000 {
				t.Fatal("it never sleeps")
			}
		}
		return n
	}
	want := 1
	for range 10 {
		f.in.Add(1)
		r.markAwake(f)
		r.markAwake(f)
		// The first check sees traffic.
		if n := looks(); n != want+1 {
			t.Errorf("sleeps after %d looks, want %d", n, want+1)
		}
		want = min(2*want, maxChecks+1)
	}
	for range 3 { // in the middle, first and last
		others := []*flow{{}, {}, {}}
		for _, o := range others {
			o.id = f.id
			r.add(o)
			for o.id%16 != f.id%16 { // of the same shard
				r.remove(o)
				r.add(o)
			}
			r.markAwake(o)
		}
		for _, i := range []int{1, 0, 2} {
			r.remove(others[i])
		}
	}
	if n := len(r.quiet()); n != 0 {
		t.Errorf("%d flows sleep that are gone", n)
	}
	r.remove(f)
	if r.markAwake(f); f.sleepState.awake {
		t.Error("a flow that is gone is awake")
	}
}
