package proxy

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// In each second the first few lines are logged, and then the number of the others: none is lost.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []int64
		var mu sync.Mutex // for the race detector: the timer's calls come one after the other
		s := newSampler(sampleEvery, func(left int64) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, left)
		})
		defer s.close()
		shown := 0
		storm := func(n int) {
			for range n {
				if s.show() {
					shown++
				}
			}
		}
		storm(sampleLines)
		time.Sleep(2 * sampleEvery)
		synctest.Wait()
		if shown != sampleLines || len(told) != 0 {
			t.Fatalf("%d shown, told %v", shown, told)
		}
		shown = 0
		for range 3 {
			storm(300)
			time.Sleep(sampleEvery / 2)
			storm(100)
			time.Sleep(sampleEvery)
		}
		synctest.Wait()
		if want := []int64{390, 390, 390}; shown != 3*sampleLines || !slices.Equal(told, want) {
			t.Fatalf("%d shown, told %v; want %v", shown, told, want)
		}
		storm(sampleLines + 5)
		s.close()
		if told[len(told)-1] != 5 {
			t.Fatalf("the end tells %v", told)
		}
	})
}

// A storm of one kind leaves few lines and takes none from other kinds; the counters have all.
func TestRefusalsAreSampled(t *testing.T) {
	var j journal
	w := newWorld(t, 0, func(_ *Config, _ *resolver, o *hclogOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	const storm = 500
	p := w.dial()
	for range storm {
		p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("GET", 400, "http_request_error")
	}
	p.send("GET http://0.0.0.0/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "destination_ip_prohibited")
	if n := w.Counters().Refusals[RefusedMalformed].Load(); n != storm {
		t.Errorf("%d refusals are counted", n)
	}
	w.Close()
	lines, left := j.lines(t, "request refused"), 0.0
	for _, l := range j.lines(t, "more requests refused, not shown") {
		if l["reason"] != "http_request_error" {
			t.Errorf("left out: %v", l)
		}
		left += l["requests"].(float64)
	}
	if n := len(lines); n > storm/2 || float64(n)+left != storm+1 {
		t.Errorf("%d lines, %v left out", n, left)
	}
	last := lines[len(lines)-1]
	for key, want := range map[string]any{
		"client": p.LocalAddr().String(), "node": "n1", "method": "GET", "host": "0.0.0.0", "port": 80.0, "status": 502.0,
		"error": "destination_ip_prohibited",
	} {
		if last[key] != want {
			t.Errorf("%s is %v, want %v: %v", key, last[key], want, last)
		}
	}
}
