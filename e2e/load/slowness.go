package load

import (
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	gaugeFor    = 200 * time.Millisecond
	maxSlowness = 10
	// gaugeUnit is what an exchange takes on the machine whose figures docs/performance.md shows:
	// that of another machine, divided by how much longer its relay took in churn-1.
	gaugeUnit = 40 * time.Microsecond
)

// Slowness tells how many times as long as on the machine of docs/performance.md a loopback
// connection takes here and now: dial, a few bytes there and back, close. It is 1 on a machine that
// is as quick, or quicker, and at most 10. What is asked of weir in processor time, or against a
// time that connections live, is asked in this measure, so that it says the same of weir on every
// machine.
func Slowness() (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	var times []time.Duration
	for begun := time.Now(); time.Since(begun) < gaugeFor || len(times) < 20; {
		t := time.Now()
		if err = exchange(l.Addr().String()); err != nil {
			break
		}
		times = append(times, time.Since(t))
	}
	_ = l.Close()
	<-done
	if err != nil {
		return 0, fmt.Errorf("gauge this machine: %w", err)
	}
	slices.Sort(times)
	return min(max(1, float64(Percentile(times, 50))/float64(gaugeUnit)), maxSlowness), nil
}

func exchange(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var b [64]byte
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b[:])
	return err
}
