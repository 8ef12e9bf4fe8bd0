package proxy

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

func TestRefusalReasons(t *testing.T) {
	for _, test := range []struct {
		r    *refusal
		want string
	}{
		{refuseAdmission(&lease.LimitError{Key: limit.HostConnections("x"), Why: lease.ErrOverLimit}), "connection_limit_reached"},
		{refuseAdmission(errEvicted), "connection_limit_reached"},
		{refuseAdmission(&lease.LimitError{Key: limit.HostConnections("x"), Why: lease.ErrQueueFull}), "queue_full"},
		{refuseAdmission(&lease.LimitError{Key: limit.HostConnections("x"), Why: lease.ErrQueueTimeout}), "queue_timeout"},
		{refuseAdmission(lease.ErrNoLease), "no_lease"},
		{refuseAdmission(errFenced), "no_lease"},
		{refuseAdmission(lease.ErrDraining), "draining"},
		{refuseAdmission(errors.New("else")), "other"},
		{refuseDial(&net.DNSError{IsNotFound: true}), "dns_error"},
		{refuseDial(&net.DNSError{IsTimeout: true}), "dns_timeout"},
		{refuseDial(errProhibited), "destination_ip_prohibited"},
		{refuseDial(unix.ECONNREFUSED), "connection_refused"},
		{refuseDial(unix.ETIMEDOUT), "connection_timeout"},
		{refuseDial(unix.ECONNRESET), "connection_terminated"},
		{refuseDial(unix.EHOSTUNREACH), "destination_ip_unroutable"},
		{refuseDial(unix.EMFILE), "other"},
		{refuseDial(errors.New("else")), "destination_unavailable"},
		{&refuseClient, "http_request_denied"},
		{&refuseLoop, "proxy_loop_detected"},
		{&refuseTimeout, "http_request_error"},
		{badRequest("nonsense"), "http_request_error"},
		{refuseAdmission(&lease.LimitError{Key: limit.HostConnections("x"), Why: lease.ErrBlocked}), "connection_limit_reached"},
		{&refuseAnonymous, "bad_credentials"},
		{&refuseGuessing, "bad_credentials"},
		{&refuseUnchecked, "other"},
		{&refuseStalled, "http_request_error"},
		{&refuseClosed, "connection_terminated"},
		{&refuseNoResponse, "http_response_timeout"},
		{&refuseUnwritable, "connection_write_timeout"},
		{&refuseLongHead, "http_response_header_section_size"},
		{&refuseManyFields, "http_response_header_section_size"},
		{badResponse("nonsense"), "http_protocol_error"},
		{&cutNode, "node_detected"},
		{&cutNested, "proxy_loop_detected"},
	} {
		if got := test.r.counted().String(); got != test.want {
			t.Errorf("%s (%s) counts as %s, want %s", test.r.code(), test.r.details, got, test.want)
		}
	}
	for why := range reasonCount { // Proxy-Status names no error that the metrics don't
		r := refusal{reason: why}
		if r.counted() == RefusedOther && r.code() != "proxy_internal_error" {
			t.Errorf("%s counts as other", r.code())
		}
	}
	names := map[string]bool{}
	for _, r := range Refusals() {
		names[r.String()] = true
	}
	if len(names) != int(refusalCount) || names[""] {
		t.Errorf("reasons need names of their own: %q", refusalNames)
	}
}

// TestCounters follows one tunnel and one refusal through the counters.
func TestCounters(t *testing.T) {
	var waits, dials durations
	w := newWorld(t, 1, func(c *Config, _ *resolver, _ *worldOptions) { c.OnQueueWait, c.OnDial = waits.note, dials.note })
	u := newUpstream(t, echo)
	before := time.Now()
	p := w.connect(u.addr)
	p.send("hello")
	p.expect("hello")
	c := w.Counters()
	wait, dial := waits.all(), dials.all()
	if len(wait) != 1 || wait[0] < 0 || len(dial) != 1 || dial[0] <= 0 || dial[0] > time.Since(before) {
		t.Errorf("one tunnel: waits %v, dials %v", wait, dial)
	}
	// An open tunnel's bytes are counted while it is open, and not again at its end.
	eventually(t, "the open tunnel's bytes", func() bool { return w.Bytes() == Bytes{In: 5, Out: 5} })
	p.send("more")
	p.expect("more")
	p.reset()
	eventually(t, "the tunnel's end", func() bool { return w.Open() == 0 })
	if b := w.Bytes(); b != (Bytes{In: 9, Out: 9}) {
		t.Errorf("after the end: %+v", b)
	}

	w.adm.refuseWith(lease.ErrQueueFull)
	q := w.dial()
	q.send(fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", u.addr))
	q.refused("CONNECT", 503, "connection_limit_reached")
	counts := make([]int64, 0, refusalCount)
	for i := range c.Refusals {
		counts = append(counts, c.Refusals[i].Load())
	}
	want := make([]int64, refusalCount)
	want[RefusedQueueFull] = 1
	if !slices.Equal(counts, want) || c.Refused.Load() != 1 {
		t.Errorf("refusals %v, in all %d; want %v", counts, c.Refused.Load(), want)
	}
	if again := waits.all(); len(again) != 1 {
		t.Errorf("a refusal counts as an admission that waited: %v", again)
	}
}

// durations collects the reported durations.
type durations struct {
	mu   sync.Mutex
	list []time.Duration
}

func (d *durations) note(one time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, one)
}

func (d *durations) all() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}
