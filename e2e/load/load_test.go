package load

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirproxy/weir/e2e/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeProxy passes CONNECT and absolute-form requests on to the upstream, and does to each what its
// behave says first.
type fakeProxy struct {
	ln net.Listener
	wg sync.WaitGroup
}

// behaviour answers a request by itself if it returns true.
type behaviour func(conn net.Conn, req *http.Request) (handled bool)

func startProxy(t *testing.T, behave behaviour) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &fakeProxy{ln: ln}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { pass(c, behave) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); p.wg.Wait() })
	return ln.Addr().String()
}

func pass(c net.Conn, behave behaviour) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if behave != nil && behave(c, req) {
			continue
		}
		up, err := net.Dial("tcp", req.Host)
		if err != nil {
			return
		}
		if req.Method != http.MethodConnect {
			_ = req.Write(up)
			resp, err := http.ReadResponse(bufio.NewReader(up), req)
			if err == nil {
				_ = resp.Write(c)
			}
			_ = up.Close()
			continue
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		relay(c, up)
		return
	}
}

func relay(c, up net.Conn) {
	defer func() { _ = up.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(c, up)
	_ = c.(*net.TCPConn).CloseWrite()
	wg.Wait()
}

const refusalHead = "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: a; error=connection_limit_reached\r\n" +
	"Retry-After: 1\r\nContent-Length: 5\r\n\r\nfull\n"

func refuse(c net.Conn, _ *http.Request) bool {
	_, _ = io.WriteString(c, refusalHead)
	return true
}

func hangUp(c net.Conn, _ *http.Request) bool {
	_ = c.Close()
	return true
}

func cutShort(c net.Conn, req *http.Request) bool {
	if req.Method == http.MethodConnect {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
	}
	_ = c.Close()
	return true
}

func startUpstream(t *testing.T) *upstream.Server {
	t.Helper()
	up, err := upstream.Start("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	return up
}

func awaitOpen(t *testing.T, up *upstream.Server, want int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.Tick(time.Millisecond); up.Stats().Open != want; <-tick {
		if time.Now().After(deadline) {
			t.Fatalf("%d open at the upstream; want %d", up.Stats().Open, want)
		}
	}
}

func TestEveryOutcomeIsCountedApart(t *testing.T) {
	up := startUpstream(t)
	proxies := []string{startProxy(t, nil), startProxy(t, refuse), startProxy(t, hangUp), startProxy(t, cutShort)}
	for _, plain := range []bool{false, true} {
		tallies := Start(Plan{
			Proxies: proxies, Target: up.Addr(), Workers: len(proxies), Plain: plain, Hold: time.Millisecond,
			Pause: time.Millisecond, Total: 40,
		}).Wait()
		ok, refused, failed, cut := tallies[0], tallies[1], tallies[2], tallies[3]
		if ok.OK == 0 || ok.Refused+ok.Failed+ok.Cut != 0 || len(ok.Waits) != int(ok.OK) {
			t.Errorf("plain=%v: the good proxy: %+v", plain, ok)
		}
		if refused.Refused == 0 || refused.Reasons["connection_limit_reached"] != refused.Refused || refused.OK != 0 {
			t.Errorf("plain=%v: the refusing proxy: %+v", plain, refused)
		}
		if failed.Failed == 0 || failed.LastFail == nil || failed.OK+failed.Cut != 0 {
			t.Errorf("plain=%v: the silent proxy: %+v", plain, failed)
		}
		if cut.Cut == 0 || cut.LastFail == nil || cut.OK+cut.Failed != 0 {
			t.Errorf("plain=%v: the cutting proxy: %+v", plain, cut)
		}
		sum := Sum(tallies)
		if n := sum.OK + sum.Refused + sum.Failed + sum.Cut; n != 40 {
			t.Errorf("plain=%v: %d attempts; want 40", plain, n)
		}
	}
}

func TestStopGivesUpWaitingAttemptsUncounted(t *testing.T) {
	arrived := make(chan struct{}, 8)
	proxy := startProxy(t, func(c net.Conn, _ *http.Request) bool {
		arrived <- struct{}{}
		_, _ = c.Read(make([]byte, 1)) // no answer until the worker goes away
		return true
	})
	for _, plain := range []bool{false, true} {
		run := Start(Plan{Proxies: []string{proxy}, Target: "127.0.0.1:1", Workers: 4, Plain: plain})
		for range 4 {
			<-arrived
		}
		sum := Sum(run.Stop())
		if n := sum.OK + sum.Refused + sum.Failed + sum.Cut; n != 0 {
			t.Errorf("plain=%v: %+v; want nothing counted", plain, sum)
		}
	}
}

func TestStopLetsAdmittedTunnelsEnd(t *testing.T) {
	up := startUpstream(t)
	run := Start(Plan{Proxies: []string{startProxy(t, nil)}, Target: up.Addr(), Workers: 4, Hold: 50 * time.Millisecond})
	awaitOpen(t, up, 4)
	sum := Sum(run.Stop())
	if sum.OK == 0 || sum.Cut != 0 {
		t.Errorf("%+v; want what was admitted to end well", sum)
	}
	if st := up.Stats(); st.Resets != 0 {
		t.Errorf("%d resets at the upstream; want none", st.Resets)
	}
}

func TestTunnel(t *testing.T) {
	up := startUpstream(t)
	proxy := startProxy(t, nil)
	tunnel, err := Connect(t.Context(), proxy, up.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tunnel.Close() }()
	if err := tunnel.Hold(time.Millisecond); err != nil {
		t.Errorf("hold: %v", err)
	}
	if err := tunnel.Broken(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a live tunnel is broken: %v", err)
	}
	if err := tunnel.HoldAndEnd(0); err != nil {
		t.Errorf("hold and end: %v", err)
	}
	awaitOpen(t, up, 0)
}

func TestConnectTellsRefusalsApart(t *testing.T) {
	_, err := Connect(t.Context(), startProxy(t, refuse), "127.0.0.1:1")
	var refused *Refusal
	if !errors.As(err, &refused) {
		t.Fatalf("error %v; want a refusal", err)
	}
	want := Refusal{503, "Service Unavailable", "a; error=connection_limit_reached", "1", "full\n"}
	if *refused != want || refused.Reason() != "connection_limit_reached" {
		t.Errorf("refusal %+v; want %+v", *refused, want)
	}
	if got := (&Refusal{Status: 407}).Reason(); got != "status 407" {
		t.Errorf("reason without Proxy-Status: %q", got)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	arrived := make(chan struct{}, 1)
	proxy := startProxy(t, func(c net.Conn, _ *http.Request) bool {
		arrived <- struct{}{}
		_, _ = c.Read(make([]byte, 1))
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := Connect(ctx, proxy, "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
}

func TestJain(t *testing.T) {
	for _, test := range []struct {
		shares []float64
		want   float64
	}{{nil, 1}, {[]float64{0, 0}, 1}, {[]float64{5, 5, 5}, 1}, {[]float64{1, 0, 0, 0}, 0.25}, {[]float64{2, 1, 1}, 16.0 / 18}} {
		if got := Jain(test.shares); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("Jain(%v) = %v; want %v", test.shares, got, test.want)
		}
	}
	if got := Fairness([]Tally{{OK: 2}, {OK: 1}, {OK: 1}}); math.Abs(got-16.0/18) > 1e-12 {
		t.Errorf("Fairness = %v", got)
	}
}

func TestPercentile(t *testing.T) {
	sorted := []time.Duration{1, 2, 3, 4}
	for p, want := range map[float64]time.Duration{0: 1, 25: 1, 50: 2, 51: 3, 99: 4, 100: 4} {
		if got := Percentile(sorted, p); got != want {
			t.Errorf("p%v = %v; want %v", p, got, want)
		}
	}
	if got := Percentile(nil, 50); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMeasure(t *testing.T) {
	up := startUpstream(t)
	plan := Plan{
		Proxies: []string{startProxy(t, nil), startProxy(t, nil)}, Target: up.Addr(), Workers: 4, Hold: 5 * time.Millisecond,
	}
	goal := Goal{
		Limit: 4, Use: 0.1, Jain: 0.5, Window: 50 * time.Millisecond, Windows: 20,
		WarmUp: 5 * time.Second, LetDrain: 5 * time.Second,
	}
	r := Measure(up, plan, goal)
	if r.Peak != 4 || r.Left != 0 || r.Use < goal.Use || r.Use > 1 || r.Jain < goal.Jain || len(r.OK) != 2 || r.Seconds < 0.05 {
		t.Errorf("report %+v; want a peak of 4, none left, and the goal reached", r)
	}
	if r.Refused+r.Failed+r.Cut != 0 || r.WaitP50 <= 0 || r.WaitP99 < r.WaitP50 {
		t.Errorf("report %+v; want nothing but successes", r)
	}

	goal.Limit, goal.WarmUp = 5, time.Millisecond // more than there are workers
	if r := Measure(up, plan, goal); r.Seconds != 0 || r.Use != 0 {
		t.Errorf("report %+v; want nothing measured without the warm-up's end", r)
	}
}
