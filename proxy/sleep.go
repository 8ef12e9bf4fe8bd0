package proxy

import "time"

// A tunnel that has been quiet for a while sleeps: its goroutines end, and a set of events, one for
// all, tells when either direction is to go on. What is left meanwhile is the flow, its sockets and
// its slot. The directions sleep and wake each for itself, since one may be stuck in a write.

// sleepSet is where the directions that sleep are waited for.
type sleepSet struct {
	flows *registry
	set   *eventSet
}

func newSleepSet(flows *registry) (*sleepSet, error) {
	d := &sleepSet{flows: flows}
	set, err := newEventSet("tunnels that sleep", d.tell)
	d.set = set
	return d, err
}

func (d *sleepSet) close() { d.set.close() }

// A token names a direction: the flow's id, and a last bit for upstream to client.
func sleepToken(f *flow, fin uint32) uint64 { return f.id<<1 | uint64(fin>>1) }

// tell wakes the direction that can go on.
func (d *sleepSet) tell(token uint64, _ bool) {
	if f := d.flows.get(token >> 1); f != nil {
		f.wake(finUp << (token & 1))
	}
}

// putToSleep makes the pumps that wait for something to read end, to sleep.
func (f *flow) putToSleep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != phaseBusy || f.cause != nil || f.client == nil {
		return
	}
	f.toldToSleep = true
	awake := ^(f.asleep | f.fins.Load())
	if awake&finUp != 0 {
		f.client.sock.conn.SetReadDeadline(longAgo)
	}
	if awake&finDown != 0 {
		f.upstream.conn.SetReadDeadline(longAgo)
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// sleep puts a direction to sleep, whose pump has found nothing to read and must end where sleep says
// so: from now on it may be running again in another goroutine.
func (f *flow) sleep(src *sock, fin uint32) bool {
	src.conn.SetReadDeadline(time.Time{})
	f.mu.Lock()
	if f.phase != phaseBusy || f.cause != nil {
		f.mu.Unlock()
		return false // the sockets are about to be closed, which ends the pump
	}
	again := f.hasSlept&fin != 0
	f.hasSlept |= fin
	f.asleep |= fin
	f.mu.Unlock()
	// What has come since is told at once.
	if !f.srv.sleepers.set.watchOnce(src, sleepToken(f, fin), again) {
		f.wake(fin) // to find the socket closed
	}
	return true
}

// wake makes those of the directions go on that sleep. It doesn't block.
func (f *flow) wake(fins uint32) {
	f.mu.Lock()
	woken, c := f.asleep&fins, f.client
	f.asleep &^= woken
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
