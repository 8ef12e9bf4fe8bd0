package proxy

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/proxytest"
)

// A client that leaves while its earlier bytes are not being read is detected, as without TLS.
func TestTLSClientGoesBehindUnreadBytes(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert), policy(func(p *Policy) { p.HalfCloseTimeout = 200 * time.Millisecond }))
	p := w.dialTLS(cert)
	p.connect(u.addr)
	q := u.accept()
	for stuck := false; !stuck; { // all buffers on the way are full
		p.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := p.Write(make([]byte, 64<<10))
		stuck = err != nil
	}
	raw, err := p.tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	unsent := func() (n int) {
		raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return n
	}
	// The last bytes must be in the proxy's hands, so that the FIN can follow them, while others
	// before them are unread: no more are read at a time than the proxy moves meanwhile.
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for taken := int64(0); unsent() > 0; <-pace.C {
		n, err := io.CopyN(io.Discard, q, 16<<10)
		if taken += n; err != nil {
			t.Fatalf("%v, after %d bytes, with %d still at the client", err, taken, unsent())
		}
	}
	p.tcp.Close()
	eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
}
