package proxy

import (
	"context"
	"net"
	"testing"
)

func TestDrain(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	p := w.connect(u.addr)
	q := u.accept()
	idle := w.dial()
	idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.refused("GET", 400, "http_request_error")

	w.SetDraining(true)
	idle.expectEOF()
	late := w.dial()
	late.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	if late.refused("CONNECT", 503, "proxy_internal_error").Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.SetDraining(false)
	again := w.connect(u.addr)
	q2 := u.accept()
	again.Close()
	q2.expectEOF()
	q2.Close()

	drained := make(chan error, 1)
	go func() { drained <- w.Drain(context.Background()) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	q.send("tunnels go on")
	p.expect("tunnels go on")
	p.Close()
	q.expectEOF()
	q.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

func TestDrainResetsTheRestAtItsEnd(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	q := u.accept()
	waiting := w.dial()
	waiting.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	eventually(t, "a client waits", func() bool { return w.adm.queued() == 1 })
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errTest)
	if err := w.Drain(ctx); err != errTest {
		t.Fatalf("Drain: %v", err)
	}
	p.expectReset()
	q.expectReset()
	if w.adm.inUse() != 0 {
		t.Fatal("a slot is held after Drain")
	}
}
