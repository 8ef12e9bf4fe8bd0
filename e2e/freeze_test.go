package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// late is what both ends say while the node between them is frozen: it waits in the kernel, read by
// nobody. On a tunnel that lives on it arrives; on one whose slot others have meanwhile, not a byte
// of it may move.
var late = strings.Repeat("said while the node was frozen; ", 512) // 16 KiB, which every socket buffer has room for

// talk is one exchange through a node, in its middle.
type talk struct {
	what             string
	client, upstream *wire
	fromClient       bool // the client may say more
	fromUpstream     bool
	mayAnswer        bool // the node owes the client an answer, and may give one of its own
}

// talks opens one exchange of every kind through n: four connections at the upstream.
func (n *node) talks(t *testing.T, h *wireHost) []*talk {
	t.Helper()
	return []*talk{n.talkTunnel(t, h), n.talkHalfClosed(t, h), n.talkUpload(t, h), n.talkDownload(t, h)}
}

const openTalks = 4

// talkTunnel is a CONNECT tunnel that has carried something both ways.
func (n *node) talkTunnel(t *testing.T, h *wireHost) *talk {
	t.Helper()
	x := &talk{what: "tunnel", client: n.dialWire(t), fromClient: true, fromUpstream: true}
	x.client.say(t, fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", h.wires, h.wires))
	x.client.awaitText(t, "HTTP/1.1 200")
	x.client.awaitText(t, "\r\n\r\n")
	x.upstream = h.accept(t)
	x.client.say(t, "up")
	x.upstream.awaitText(t, "up")
	x.upstream.say(t, "down")
	x.client.awaitText(t, "down")
	return x
}

// talkHalfClosed is a tunnel whose client has said all it had to say, and waits for the answer.
func (n *node) talkHalfClosed(t *testing.T, h *wireHost) *talk {
	t.Helper()
	x := n.talkTunnel(t, h)
	x.what, x.fromClient = "half-closed tunnel", false
	if err := x.client.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := x.upstream.awaitEnd(t); err != io.EOF {
		t.Fatalf("the upstream sees %v; want the client's FIN", err)
	}
	return x
}

// talkUpload is a request whose body is under way.
func (n *node) talkUpload(t *testing.T, h *wireHost) *talk {
	t.Helper()
	x := &talk{what: "upload", client: n.dialWire(t), fromClient: true, mayAnswer: true}
	x.client.say(t, fmt.Sprintf("POST http://%s/ HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\nbegun", h.wires, h.wires))
	x.upstream = h.accept(t)
	x.upstream.awaitText(t, "\r\n\r\nbegun")
	return x
}

// talkDownload is a response whose body is under way.
func (n *node) talkDownload(t *testing.T, h *wireHost) *talk {
	t.Helper()
	x := &talk{what: "download", client: n.dialWire(t), fromUpstream: true}
	x.client.say(t, fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", h.wires, h.wires))
	x.upstream = h.accept(t)
	x.upstream.awaitText(t, "\r\n\r\n")
	x.upstream.say(t, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegun")
	x.client.awaitText(t, "\r\n\r\nbegun")
	return x
}

// sayLate says late wherever the exchange lets more be said. It returns how much had come before.
func (x *talk) sayLate(t *testing.T) (client, upstream int) {
	t.Helper()
	client, upstream = len(x.client.heard()), len(x.upstream.heard())
	if x.fromClient {
		x.client.say(t, late)
	}
	if x.fromUpstream {
		x.upstream.say(t, late)
	}
	return client, upstream
}

// mustBeCut: nothing has moved since, and both sides saw the connection break off.
func (x *talk) mustBeCut(t *testing.T, client, upstream int) {
	t.Helper()
	clientEnd := x.client.awaitEnd(t)
	if err := x.upstreamEnd(t); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%s: the upstream sees %v; want a reset", x.what, err)
	}
	if n := len(x.upstream.heard()) - upstream; n != 0 {
		t.Errorf("%s: %d bytes reach the upstream", x.what, n)
	}
	got := x.client.heard()[client:]
	if x.mayAnswer && len(got) > 0 {
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 50")) {
			t.Errorf("%s: the client hears %.300q", x.what, got)
		}
		return
	}
	if len(got) != 0 || !errors.Is(clientEnd, syscall.ECONNRESET) {
		t.Errorf("%s: %d bytes reach the client, which sees %v; want none, and a reset", x.what, len(got), clientEnd)
	}
}

// upstreamEnd waits until the upstream has seen how the connection ends. One that has had the
// client's FIN sees no more than that its writes fail, with EPIPE.
func (x *talk) upstreamEnd(t *testing.T) (err error) {
	t.Helper()
	if x.what != "half-closed tunnel" {
		return x.upstream.awaitEnd(t)
	}
	eventually(t, wireWithin, "the upstream's write fails", func() error {
		if _, err = x.upstream.Write([]byte("x")); err == nil {
			return errors.New("it does not")
		}
		return nil
	})
	return err
}

// mustLiveOn: what was said while the node was frozen arrives.
func (x *talk) mustLiveOn(t *testing.T) {
	t.Helper()
	if x.fromClient {
		x.upstream.awaitText(t, late)
	}
	if x.fromUpstream {
		x.client.awaitText(t, late)
	}
}

// freeze stops the process and returns once none of its threads runs any more, which is a moment
// after the signal.
func (n *node) freeze(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGSTOP)
	eventually(t, 2*time.Second, "all threads stop", n.stopped)
}

// stopped is a condition: each thread's state (the field after the name in proc_pid_stat(5)) is T.
func (n *node) stopped() error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.process.Pid()))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads: %w", err)
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if err != nil {
			return err
		}
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; !bytes.HasPrefix(rest, []byte(" T ")) {
			return fmt.Errorf("thread %s", stat)
		}
	}
	return nil
}

// renewed is a condition: the node's session is still the former one, and will last for longer than
// it would if nobody had answered it since it was frozen.
func (n *node) renewed(former uint64, longer time.Duration) func() error {
	return func() error {
		s, err := n.http.status()
		if err != nil {
			return err
		}
		left, err := time.ParseDuration(s.Session.ExpiresIn)
		if s.Session.ID != former || left < longer {
			return fmt.Errorf("session %d, which was %d, expires in %v, %v", s.Session.ID, former, left, err)
		}
		return nil
	}
}

func (n *node) session(t testing.TB) uint64 {
	t.Helper()
	s, err := n.http.status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Session.ID
}

// TestFrozenPastItsLease: when a node wakes up whose slots others have got meanwhile, not a byte
// moves on its old connections, in either direction, though both ends have been saying more. It
// resets them, gets a new session, and admits.
func TestFrozenPastItsLease(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 2 * time.Second})
	for _, role := range []string{"follower", "leader"} {
		h := c.wireHost(t)
		c.setLimit(t, h.name, connections(openTalks))
		leader, followers := c.leader(t)
		victim, other := followers[0], followers[1]
		if role == "leader" {
			victim = leader
		}
		former := victim.session(t)
		talks := victim.talks(t, h)
		victim.freeze(t)
		frozen := time.Now()
		client, upstream := make([]int, len(talks)), make([]int, len(talks))
		for i, x := range talks {
			client[i], upstream[i] = x.sayLate(t)
		}
		// A slot that others have is the proof that the lease is over.
		eventually(t, c.shape.ttl+reclaimSlack, "the frozen node's slots", admits(other, h.target))
		woken := time.Now()
		victim.signal(t, syscall.SIGCONT)
		for i, x := range talks {
			x.mustBeCut(t, client[i], upstream[i])
		}
		cut := time.Since(woken)
		victim.awaitReady(t, 10*time.Second)
		eventually(t, normalWithin, "the node admits again", admits(victim, h.target))
		t.Logf("%s: woken after %v, all cut %v later, ready %v after it woke", role, woken.Sub(frozen).Round(10*time.Millisecond),
			cut.Round(time.Millisecond), time.Since(woken).Round(10*time.Millisecond))
		if now := victim.session(t); now == former {
			t.Errorf("%s: it still has session %d", role, former)
		}
	}
}

// TestFrozenWithinItsLease: a node that wakes up in time goes on where it was, also one that led
// until then.
func TestFrozenWithinItsLease(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 5 * time.Second})
	h := c.wireHost(t)
	for _, role := range []string{"follower", "leader"} {
		leader, followers := c.leader(t)
		victim := followers[0]
		if role == "leader" {
			victim = leader
		}
		c.setLimit(t, h.name, connections(2*openTalks))
		former := victim.session(t)
		talks := victim.talks(t, h)
		victim.freeze(t)
		for _, x := range talks {
			x.sayLate(t)
		}
		const nap = 1200 * time.Millisecond // long enough for others to elect another leader
		measure(nap)
		victim.signal(t, syscall.SIGCONT)
		for _, x := range talks {
			x.mustLiveOn(t)
		}
		eventually(t, c.shape.ttl, "its session is renewed", victim.renewed(former, c.shape.ttl-nap/2))
		for _, x := range talks {
			select {
			case <-x.client.done:
				t.Errorf("%s: the %s is broken", role, x.what)
			default:
			}
		}
	}
}

// TestFrozenLeaderCostsTheOthersNothing: nodes whose leader has frozen renew their sessions with
// the next one, before they run out, though nothing ever comes on their streams to the old one.
func TestFrozenLeaderCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 5 * time.Second})
	proxy := c.add(t, "p", "proxy")
	proxy.awaitReady(t, 10*time.Second)
	h := c.wireHost(t)
	c.setLimit(t, h.name, connections(3*openTalks))
	leader, others := c.leader(t)
	others = append(others, proxy)
	former := map[*node]uint64{}
	talks := map[*node][]*talk{}
	for _, n := range others {
		former[n], talks[n] = n.session(t), n.talks(t, h)
	}
	leader.freeze(t)
	frozen := time.Now()
	for _, n := range others {
		eventually(t, c.shape.ttl+time.Second, "node "+n.name+" has outlived its lease from the frozen leader", func() error {
			if time.Since(frozen) < c.shape.ttl {
				return errors.New("not yet")
			}
			return n.renewed(former[n], time.Second)()
		})
		for _, x := range talks[n] {
			x.sayLate(t)
			x.mustLiveOn(t)
		}
	}
}
