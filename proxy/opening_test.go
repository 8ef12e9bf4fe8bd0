package proxy

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/sock"
)

const (
	testGreeting = "\x00node\x02\r\n"
	testMark     = "0123abcd"
)

// greetings makes a world check for its own nodes' first bytes.
func greetings(c *Config, _ *resolver, _ *worldOptions) { c.NodeGreeting = testGreeting }

// nestedAnswers matches the beginning of an answer by a proxy of the same cluster.
var nestedAnswers = regexp.MustCompile(`^HTTP/1\.1 [^\x00-\x1f]{0,124}\r\n` + loopField + ": " + testMark + "\r\n")

// naiveOpening checks all bytes so far at once.
func naiveOpening(all string) error {
	switch {
	case strings.HasPrefix(all, testGreeting):
		return errNodeGreeted
	case nestedAnswers.MatchString(latin1(all)):
		return errProxyGreeted
	}
	return nil
}

// latin1 turns each byte into a character, as the expression needs.
func latin1(s string) string {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// The state machine finds what the naive check finds, in the same piece, wherever the pieces are
// cut.
func FuzzOpening(f *testing.F) {
	loop := newLoopMark(testMark)
	for _, seed := range []string{
		testGreeting, testGreeting + "nonce", "\x00node", "\x00nod\x02\r\n", "HTTP/1.1 200 Connection established\r\n\r\n",
		string(loop.established), string(loop.established[:60]), "HTTP/1.1 403 Forbidden\r\n" + string(loop.field()) + "Content-Length: 1\r\n",
		"HTTP/1.1 200 OK\r\nVia: 1.1 a\r\n" + string(loop.field()), "HTTP/1.1 " + strings.Repeat("x", 124) + string(loop.tail),
		"HTTP/1.1 " + strings.Repeat("x", 125) + string(loop.tail), "HTTP/1.1 200 \xff\r\n" + string(loop.field()), "HTTP/1.1 200 O\nK" + string(loop.tail),
		"HTTP/1.1 2\r\rn", "HTTP/1.1 \r\n" + string(loop.field()), "\x16\x03\x01",
	} {
		f.Add([]byte(seed), uint64(3))
		f.Add([]byte(seed), uint64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64) {
		o := opening{greeting: testGreeting, loop: loop.tail}
		for from := 0; from < len(b); {
			n := 1 + int(cuts&7)
			cuts = cuts>>3 | cuts<<61
			to := min(from+n, len(b))
			got, want := o.check(b[from:to]), naiveOpening(string(b[:to]))
			if got != want {
				t.Fatalf("%q, with %d bytes in the last piece: %v, want %v", b[:to], to-from, got, want)
			}
			if got != nil {
				return
			}
			from = to
		}
	})
}

func TestLoopMark(t *testing.T) {
	for mark, want := range map[string]string{
		"abc": "abc", "a b\r\nX: y": "abX:y", "\x7fä€": "", "": "", strings.Repeat("x", 100): strings.Repeat("x", maxLoopMark),
	} {
		m := newLoopMark(mark)
		field := ""
		if want != "" {
			field = loopField + ": " + want + "\r\n"
		}
		if string(m.field()) != field || string(m.answer()) != "HTTP/1.1 200 Connection established\r\n"+field+"\r\n" {
			t.Errorf("%q: %q, %q", mark, m.field(), m.answer())
		}
	}
}

// All of the proxy's own answers begin as other proxies of the cluster expect.
func TestOwnAnswersAreMarked(t *testing.T) {
	for _, r := range []*refusal{&refuseDraining, &refuseLoop, &refuseTooLarge, &refuseCredentials, badRequest("x")} {
		o := opening{loop: newLoopMark(testMark).tail}
		answer := r.render(nil, r.status(503), newLoopMark(testMark).field(), "n1", limit.Target{}, http1.KeepAlive{}, false)
		if err := o.check(answer); err != errProxyGreeted {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

// nested is a tunnel whose upstream the test plays.
type nested struct {
	w      *world
	log    *journal
	client *peer
	up     *peer
}

// ways are the ways to open a tunnel to an upstream that begins with the given bytes.
var ways = []struct {
	name string
	open func(t *testing.T, begin string) nested
}{
	{"CONNECT", func(t *testing.T, begin string) nested {
		n := newNested(t)
		u := newUpstream(t, nil)
		n.client = n.w.connect(u.addr)
		n.up = u.accept()
		n.up.send(begin)
		return n
	}},
	{"TLS client", func(t *testing.T, begin string) nested {
		cert := proxytest.Certificate(t)
		n := newNested(t, speakTLS(cert))
		u := newUpstream(t, nil)
		c := n.w.dialTLS(cert)
		c.connect(u.addr)
		n.client = &peer{c.tcp, t, c.r}
		n.up = u.accept()
		n.up.send(begin)
		return n
	}},
	{"upgrade", func(t *testing.T, begin string) nested {
		n := newNested(t)
		u := newUpstream(t, nil)
		n.client = n.w.dial()
		n.client.send(get(u, "/", "Connection: upgrade\r\nUpgrade: x\r\n"))
		n.up = u.accept()
		n.up.readHead()
		const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n"
		n.up.send(answer + "\r\n" + begin) // in one piece, so that it lies behind the head
		n.client.expect(answer + "Via: 1.1 n1\r\n\r\n")
		return n
	}},
}

func newNested(t *testing.T, more ...option) nested {
	log := new(journal)
	return nested{w: newWorld(t, 1, append(more, greetings, func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = log, hclog.Info, true
	})...), log: log}
}

// cut checks that the tunnel is reset on both sides, and that log and counters say why.
func (n nested) cut(t *testing.T, reason Refusal, cause error) {
	t.Helper()
	n.client.expectReset()
	n.up.expectReset()
	eventually(t, "the slot is back", func() bool { return n.w.adm.inUse() == 0 })
	if got := n.w.Counters().Refusals[reason].Load(); got != 1 {
		t.Errorf("%d refusals for %v", got, reason)
	}
	eventually(t, "the tunnel's line", func() bool { return len(n.log.Lines(t, "tunnel ended")) == 1 })
	if end := n.log.Lines(t, "tunnel ended")[0]["end"]; end != cause.Error() {
		t.Errorf("the log says: %v", end)
	}
	lines := n.log.Lines(t, "tunnel cut")
	if len(lines) != 1 || lines[0]["error"] != reason.String() || lines[0]["@level"] != "warn" || lines[0]["status"] != nil {
		t.Errorf("the log says: %v", lines)
	}
}

// A tunnel to a node's own port ends before the client has the whole greeting, wherever that is
// cut, and nothing after it passes.
func TestGreetingEndsTunnel(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for cut := range len(testGreeting) + 1 {
				n := way.open(t, testGreeting[:cut])
				if cut < len(testGreeting) {
					n.client.expect(testGreeting[:cut])
					n.up.send(testGreeting[cut:] + "nonce")
				}
				n.cut(t, RefusedNode, errNodeGreeted)
			}
		})
	}
}

// The same, one byte at a time, also if the tunnel sleeps between them.
func TestGreetingByteByByte(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			n := way.open(t, testGreeting[:1])
			n.client.expect(testGreeting[:1])
			for i := 1; i < len(testGreeting); i++ {
				if i == 4 {
					eventually(t, "the tunnel sleeps", func() bool { return asleep(n.w) })
				}
				n.up.send(testGreeting[i : i+1])
				if i < len(testGreeting)-1 {
					n.client.expect(testGreeting[i : i+1])
				}
			}
			n.cut(t, RefusedNode, errNodeGreeted)
		})
	}
}

// asleep reports whether a tunnel sleeps in both directions.
func asleep(w *world) bool {
	for _, f := range w.flows.all() {
		f.mu.Lock()
		both := f.slumber.asleep == finUp|finDown
		f.mu.Unlock()
		if both {
			return true
		}
	}
	return false
}

// A full buffer, which would switch to splicing, does not pass behind a greeting either.
func TestGreetingBeforeBulk(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			n := way.open(t, "")
			n.up.send(testGreeting + strings.Repeat("x", 2*sock.BufferSize))
			n.cut(t, RefusedNode, errNodeGreeted)
		})
	}
}

// An upstream that only begins like a node, or sends the same bytes later, is left alone.
func TestAlmostGreetings(t *testing.T) {
	mark := string(newLoopMark(testMark).field())
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for _, begin := range []string{
				testGreeting[:7] + "x", "x" + testGreeting, "\x00", "\x16\x03\x01\x00", "HTTP/1.1 200 OK\r\nVia: 1.1 a\r\n" + mark + "\r\n",
				"HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.1 200 Connection established\r\n" + loopField + ": " + testMark + "0\r\n\r\n",
				"HTTP/1.0 200 OK\r\n" + mark, "SSH-2.0-x\r\n" + mark,
			} {
				n := way.open(t, begin)
				n.w.SetLoopMark(testMark)
				n.client.expect(begin)
				n.up.send(testGreeting)
				n.client.expect(testGreeting)
				go io.Copy(n.up.TCPConn, noise(2, 100<<10))
				sameBytes(t, "the rest", io.LimitReader(n.client.r, 100<<10), noise(2, 100<<10))
				n.client.Close()
				n.up.Close()
			}
		})
	}
}

// A client may send anything: only the upstream's bytes are checked.
func TestClientMaySendGreeting(t *testing.T) {
	w := newWorld(t, 1, greetings)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	p.send(testGreeting + "x")
	q.expect(testGreeting + "x")
	q.send("y")
	p.expect("y")
}

// A tunnel through a proxy of the same cluster ends at that proxy's first answer. One through
// another cluster's proxy, or through this one's before it had a mark, goes on.
func TestNestedTunnels(t *testing.T) {
	end := newUpstream(t, echo)
	for _, tt := range []struct {
		name, outer, inner, request string
		looped                      bool
	}{
		{"same cluster", testMark, testMark, "CONNECT " + end.addr + " HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"refused", testMark, testMark, "CONNECT nowhere HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"malformed", testMark, testMark, "nonsense\r\n\r\n", true},
		{"another cluster", testMark, "another", "CONNECT " + end.addr + " HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"no mark inside", testMark, "", "CONNECT " + end.addr + " HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"no mark outside", "", testMark, "CONNECT " + end.addr + " HTTP/1.1\r\nHost: x\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNested(t)
			inner := newWorld(t, 0)
			n.w.SetLoopMark(tt.outer)
			inner.SetLoopMark(tt.inner)
			p := n.w.dial()
			p.send("CONNECT " + inner.addr + " HTTP/1.1\r\nHost: x\r\n\r\n")
			p.expect(string(newLoopMark(tt.outer).answer()))
			p.send(tt.request)
			if !tt.looped {
				p.expect(string(newLoopMark(tt.inner).answer()))
				p.send("hello")
				p.expect("hello")
				return
			}
			p.expectReset()
			eventually(t, "the slot is back", func() bool { return n.w.adm.inUse() == 0 })
			if got := n.w.Counters().Refusals[RefusedLoop].Load(); got != 1 {
				t.Errorf("%d loops were counted", got)
			}
			eventually(t, "the tunnel's line", func() bool { return len(n.log.Lines(t, "tunnel ended")) == 1 })
			if end := n.log.Lines(t, "tunnel ended")[0]["end"]; end != errProxyGreeted.Error() {
				t.Errorf("the log says: %v", end)
			}
		})
	}
}
