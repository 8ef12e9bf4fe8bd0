package weir_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/api"
)

// Requests wait for a token of the limit in all, and a first limit is set on their host. Those that
// go on then may not open more connections than that, though they were admitted to the host before.
func TestFirstLimitHoldsForWhoWaitsForATokenAlready(t *testing.T) {
	t.Parallel()
	const requests = 5
	inAll := weir.Limit{Scope: "total", Requests: &weir.Rate{Rate: "1/h", Burst: 1}, Queue: &weir.Queue{Timeout: weir.Duration(time.Minute), Size: 9}}
	n := start(t, weir.Config{Proxy: "127.0.0.1:0", API: "127.0.0.1:0", Limits: []weir.Limit{inAll}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var opened atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			opened.Add(1)
			defer c.Close()
		}
	}()
	answers := make(chan int, requests)
	for range requests {
		c, err := net.Dial("tcp", n.ProxyURL().Host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", l.Addr())
		go func() {
			resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"})
			if err != nil {
				answers <- 0
				return
			}
			answers <- resp.StatusCode
		}()
	}
	if status := <-answers; status != http.StatusOK {
		t.Fatalf("the first is answered %d", status)
	}
	awaitTotal(t, n, requests-1)

	ctx := t.Context()
	if err := n.Limits().Set(ctx, weir.HostLimit("127.0.0.1", 1)); err != nil {
		t.Fatal(err)
	}
	inAll.Requests = &weir.Rate{Rate: "1000/s", Burst: 1000}
	if err := n.Limits().Set(ctx, inAll); err != nil {
		t.Fatal(err)
	}
	for range requests - 1 {
		if status := <-answers; status != http.StatusServiceUnavailable {
			t.Errorf("answered %d while the host's only connection was in use", status)
		}
	}
	if got := opened.Load(); got != 1 {
		t.Errorf("%d connections were opened; the limit is 1", got)
	}
}

// awaitTotal waits until so many requests wait for a token of the limit in all.
func awaitTotal(t *testing.T, n *weir.Node, waiting int64) {
	t.Helper()
	client, err := api.NewClient(n.APIURL().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdle()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		uses, err := client.Usage(t.Context(), "total", api.HostQuery{})
		if err != nil {
			t.Fatal(err)
		}
		for _, use := range uses.Usage {
			if use.Requests != nil && use.Requests.Waiting == waiting {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests should wait: %+v", waiting, uses)
		}
	}
}

// The same holds for permits, and where a limit on the host is lowered.
func TestLateLimitHoldsForPermitsThatWaitForAToken(t *testing.T) {
	t.Parallel()
	const permits = 5
	for name, before := range map[string][]weir.Limit{"first": nil, "lowered": {weir.HostLimit("127.0.0.1", permits)}} {
		t.Run(name, func(t *testing.T) {
			inAll := weir.Limit{Scope: "total", Requests: &weir.Rate{Rate: "1/h", Burst: 1}, Queue: &weir.Queue{Timeout: weir.Duration(time.Minute), Size: 9}}
			n := start(t, weir.Config{API: "127.0.0.1:0", Limits: append(before, inAll)})
			acquired := make(chan error, permits)
			for range permits {
				go func() {
					p, err := n.Acquire(t.Context(), weir.Subject{Host: "127.0.0.1:9"})
					if err == nil {
						t.Cleanup(p.Release)
					}
					acquired <- err
				}()
			}
			if err := <-acquired; err != nil {
				t.Fatal(err)
			}
			awaitTotal(t, n, permits-1)
			if err := n.Limits().Set(t.Context(), weir.HostLimit("127.0.0.1", 1)); err != nil {
				t.Fatal(err)
			}
			inAll.Requests = &weir.Rate{Rate: "1000/s", Burst: 1000}
			if err := n.Limits().Set(t.Context(), inAll); err != nil {
				t.Fatal(err)
			}
			for range permits - 1 {
				if err := <-acquired; !errors.As(err, new(*weir.LimitError)) {
					t.Errorf("a permit that waited for a token is answered %v, although the limit on the host is 1, and 1 is held", err)
				}
			}
		})
	}
}
