package proxy

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/sock"
)

// When all places are taken, the client that has been idle longest is closed; one with a tunnel is
// not.
func TestIdleClientsGiveWay(t *testing.T) {
	var j journal
	u := newUpstream(t, nil)
	w := newWorld(t, 0, policy(func(p *Policy) { p.HeaderTimeout = time.Minute }), func(c *Config, _ *resolver, o *worldOptions) {
		c.MaxClients = 3
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	tunnel := w.connect(u.addr)
	q := u.accept()
	oldest := w.dial()
	eventually(t, "the oldest idle client is in", func() bool { return w.Counters().Clients.Load() == 2 })
	idle := w.dial()
	eventually(t, "the other one is in", func() bool { return w.Counters().Clients.Load() == 3 })

	p := w.dial()
	p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 400, "http_request_error")
	oldest.expectEOF()
	tunnel.send("12345")
	q.expect("12345")
	idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.refused("GET", 400, "http_request_error")
	if n := len(j.Lines(t, "every place for a client is taken: new clients take the places of idle ones, or wait if none is idle")); n == 0 {
		t.Error("the log does not say it")
	}
}

// reuse makes one request on p to u; the upstream connection is then kept.
func reuse(p *peer, u *upstream) *peer {
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	p.response("GET")
	return q
}

// There are no more upstream connections than places: a new one closes the least recently used kept
// one.
func TestIdleUpstreamsGiveWay(t *testing.T) {
	w := newWorld(t, 0, func(c *Config, _ *resolver, _ *worldOptions) { c.MaxClients = 2 })
	p := w.dial()
	first := reuse(p, newUpstream(t, nil))
	second := newUpstream(t, nil)
	kept := reuse(p, second)
	reuse(p, newUpstream(t, nil))
	first.expectEOF()
	first.Close()
	p.send(get(second, "/", ""))
	kept.readHead()
	kept.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	p.response("GET")
}

// Upstreams that do not answer a FIN cost few descriptors: if many do so, the next is reset.
func TestSlowEndsAreBounded(t *testing.T) {
	w := newWorld(t, 0, func(c *Config, _ *resolver, _ *worldOptions) { c.MaxClients = 2 })
	p := w.dial()
	ends := []*peer{reuse(p, newUpstream(t, nil)), reuse(p, newUpstream(t, nil))}
	w.SetDraining(true)
	resets := 0
	for _, q := range ends {
		if _, err := q.r.ReadByte(); sock.IsReset(err) {
			resets++
		} else if err != io.EOF {
			t.Errorf("the upstream read: %v", err)
		}
	}
	if resets != 1 {
		t.Errorf("%d of 2 were reset", resets)
	}
}

// Everything that clients can cause at once fits into the limit of open files, beside the node's
// share.
func TestDescriptorsAreReckoned(t *testing.T) {
	for _, limit := range []int{1024, 4096, 65536, 1 << 20} {
		for _, tls := range []bool{false, true} {
			clients, each := clientsWithin(limit, tls), descriptorsPerClient(tls)
			sum := clients*each + clients/closingShare + maxStrangers*(each-1) + 2*sock.MaxPipes + resolve.Descriptors(limit)
			if left := limit - sum; left < min(limit/3, mostOfNode) {
				t.Errorf("limit %d, tls %v: %d clients leave the node %d descriptors", limit, tls, clients, left)
			}
			if clients <= minClients {
				t.Errorf("limit %d, tls %v: %d clients", limit, tls, clients)
			}
		}
	}
}
