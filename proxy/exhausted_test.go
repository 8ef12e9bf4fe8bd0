package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The refusal names the exhausted resource and the remedy, and invites a retry.
func TestExhausted(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:443")
	for err, want := range map[error][2]string{
		newDialError(at, unix.EADDRNOTAVAIL): {"no local port is left for connections to 127.0.0.1:443", "net.ipv4.ip_local_port_range"},
		newDialError(at, unix.EMFILE):        {"the proxy has no file descriptor left", "LimitNOFILE"},
		newDialError(at, unix.ENFILE):        {"the proxy's machine has no file descriptor left", "fs.file-max"},
		newDialError(at, unix.ENOBUFS):       {"no memory left for sockets", ""},
	} {
		r := refuseDial(err)
		if r.status(429) != 503 || r.retryAfter == 0 || r.code() != "proxy_internal_error" || !strings.Contains(r.details, want[0]) || !strings.Contains(r.details, want[1]) {
			t.Errorf("%v: %+v, want %q", err, r, want)
		}
		if !isExhausted(err) {
			t.Errorf("%v: not known as the machine's", err)
		}
	}
	// The same error, but the machine has no source address.
	nowhere := netip.MustParseAddrPort("[fe80::1%no-such-interface]:443")
	if err := newDialError(nowhere, unix.EADDRNOTAVAIL); isExhausted(err) || refuseDial(err).code() != "destination_ip_unroutable" {
		t.Errorf("%v: %+v", err, refuseDial(err))
	}
}
