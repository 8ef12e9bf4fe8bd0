package load

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	gaugeFor    = 200 * time.Millisecond
	maxSlowness = 10
	// gaugeUnit is what an exchange takes on the machine whose figures docs/performance.md shows:
	// that of another machine, divided by how much longer its relay took in churn-1.
	gaugeUnit = 40 * time.Microsecond

	// coldPause is for how long the machine sleeps before an exchange that finds it cold, and
	// coldUnit what that takes on the same machine: on a virtual one, far longer.
	coldPause = 20 * time.Millisecond
	coldUnit  = 700 * time.Microsecond
)

// Slowness tells how many times as long as on the machine of docs/performance.md a loopback
// connection takes here and now: dial, a few bytes there and back, close; one after the other, or
// with the machine asleep in between, whichever is worse. It is 1 on a machine that is as quick, or
// quicker, and at most 10. What is asked of weir in processor time, or against a time that
// connections live, is asked in this measure, so that it says the same of weir on every machine.
func Slowness() (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("gauge this machine: %w", err)
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
	hot, err := medianExchange(l.Addr().String(), 0)
	var cold time.Duration
	if err == nil {
		cold, err = medianExchange(l.Addr().String(), coldPause)
	}
	_ = l.Close()
	<-done
	if err != nil {
		return 0, fmt.Errorf("gauge this machine: %w", err)
	}
	return min(max(1, float64(hot)/float64(gaugeUnit), float64(cold)/float64(coldUnit)), maxSlowness), nil
}

// medianExchange is what an exchange takes, with pauses in between.
func medianExchange(addr string, pause time.Duration) (time.Duration, error) {
	var times []time.Duration
	for begun := time.Now(); time.Since(begun) < gaugeFor || len(times) < 20; {
		if pause > 0 {
			<-time.After(pause)
		}
		t := time.Now()
		if err := exchange(addr); err != nil {
			return 0, err
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return Percentile(times, 50), nil
}

// Wakes tells which share of a core a program costs that wakes so many times a second, at uneven
// moments, to send itself a message of a few bytes over loopback. It is what an idle node does, and
// nearly all of its price is the machine's: a core that has slept needs twenty times as long for
// the same message on some virtual machines, and hardly longer on others.
func Wakes(perSecond int, over time.Duration) (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("gauge this machine: %w", err)
	}
	defer func() { _ = l.Close() }()
	var echo sync.WaitGroup
	defer echo.Wait()
	echo.Go(func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("gauge this machine: %w", err)
	}
	defer func() { _ = c.Close() }()
	begun, before := time.Now(), processorTime()
	for time.Since(begun) < over {
		mean := time.Second / time.Duration(perSecond)
		<-time.After(mean/2 + rand.N(mean))
		if err := ping(c); err != nil {
			return 0, fmt.Errorf("gauge this machine: %w", err)
		}
	}
	return float64(processorTime()-before) / float64(time.Since(begun)), nil
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func exchange(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return ping(c)
}

func ping(c net.Conn) error {
	var b [64]byte
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:])
	return err
}
