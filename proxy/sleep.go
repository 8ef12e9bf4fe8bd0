package proxy

import (
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

// A tunnel that has carried nothing for a while sleeps: its goroutines end, and one event set for
// all tunnels wakes each direction when it can go on. Only the flow, its sockets and its slot
// remain. Each direction sleeps and wakes separately, because one may be stuck in a write.

// sleepSet waits for events of the directions that sleep.
type sleepSet struct {
	flows *registry
	set   *sock.Events
}

func newSleepSet(flows *registry) (*sleepSet, error) {
	d := &sleepSet{flows: flows}
	set, err := sock.NewEvents("tunnels that sleep", d.notify)
	d.set = set
	return d, err
}

func (d *sleepSet) close() { d.set.Close() }

// sleepToken names a direction: the flow's id, and a last bit that is set for upstream to client.
func sleepToken(f *flow, fin uint32) uint64 { return f.id<<1 | uint64(fin>>1) }

// notify wakes the direction that can go on.
func (d *sleepSet) notify(token uint64, _ bool) {
	if f := d.flows.get(token >> 1); f != nil {
		f.wake(finUp << (token & 1))
	}
}

// putToSleep interrupts the pumps that wait for bytes, so that they go to sleep.
func (f *flow) putToSleep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != phaseBusy || f.cause.Load() != nil || f.client == nil {
		return
	}
	f.toldToSleep = true
	awake := ^(f.slumber.asleep | f.fins.Load())
	if awake&finUp != 0 {
		f.client.sock.SetReadDeadline(sock.LongAgo)
	}
	if awake&finDown != 0 {
		f.upstream.SetReadDeadline(sock.LongAgo)
	}
}

// sleep puts a direction to sleep whose pump has nothing to read, or whose meter has nothing to
// give. After true, the pump must return at once: the direction may already run in another
// goroutine.
func (f *flow) sleep(src *sock.Conn, fin uint32, starved bool) bool {
	if starved {
		return f.starve(fin)
	}
	src.SetReadDeadline(time.Time{})
	f.mu.Lock()
	if f.phase != phaseBusy || f.cause.Load() != nil {
		f.mu.Unlock()
		return false // the sockets are about to be closed, which ends the pump
	}
	again := f.slumber.rest(fin)
	f.mu.Unlock()
	// Bytes that have come since are reported at once.
	if !f.srv.sleepers.set.WatchOnce(src, sleepToken(f, fin), again) {
		f.wake(fin) // the pump finds the socket closed
	}
	return true
}

// wake resumes those of the directions that sleep. It doesn't block.
func (f *flow) wake(fins uint32) {
	f.mu.Lock()
	woken, c := f.slumber.wake(fins), f.client
	f.mu.Unlock()
	if woken == 0 {
		return
	}
	f.srv.flows.markAwake(f)
	if woken&finUp != 0 {
		go f.pumpUp(c)
	}
	if woken&finDown != 0 {
		go f.pumpDown(c)
	}
}
