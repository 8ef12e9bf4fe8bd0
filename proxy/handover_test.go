package proxy

import (
	"sync"
	"testing"

	"github.com/weirproxy/weir/proxy/sock"
)

// What happens to a connection in the moment in which it changes hands.

// A client's hang-up is noticed just before its exchange ends and another client is given the
// connection: that client's exchange goes on.
func TestHangUpOfFormerClient(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	former, next := w.dial(), w.dial()
	former.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	c, _ := w.only()
	f := w.flows.all()[0] // what [conn.hungUp] finds before it lets go of its lock
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	q.send(ok)
	former.response("GET")
	next.send(get(u, "/", ""))
	q.readHead()
	f.clientHungUp(c, sock.HangupReset)
	q.send(ok)
	if r, body := next.response("GET"); r.StatusCode != 200 || body != "ok" {
		t.Errorf("the next client's answer is %d %q", r.StatusCode, body)
	}
}

// A connection that is closed while its 101 passes, and so while it turns from an exchange into a
// tunnel, is closed on both sides.
func TestClosedWhileItSwitches(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	reached, goOn := make(chan struct{}), make(chan struct{})
	p := w.dial()
	p.send(get(u, "/", "Connection: upgrade\r\nUpgrade: websocket\r\n"))
	q := u.accept()
	q.readHead()
	w.adm.mu.Lock()
	w.adm.onPaces = sync.OnceFunc(func() {
		close(reached)
		<-goOn
	})
	w.adm.mu.Unlock()
	q.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	<-reached
	if !w.CloseConnection(w.Connections("")[0].ID) {
		t.Fatal("there is no such connection")
	}
	close(goOn)
	q.expectReset()
	p.response("GET")
	p.expectReset()
	w.freed()
}
