//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/e2e/bench/usage"
	"github.com/weirproxy/weir/e2e/bench/wire"
)

// warmUp is how long a load runs before it is measured.
const warmUp = 400 * time.Millisecond

// reading is all that is read at the begin and at the end of a window.
type reading struct {
	at          time.Time
	cpu, beside time.Duration
	machine     usage.Machine
	driver      time.Duration // processor time of this process: driver and upstream
	ops         int64
}

func read(c *contender, driver *wire.Driver) (r reading, err error) {
	r.at, r.ops = time.Now(), driver.Ops()
	if r.cpu, err = usage.CPU(c.pids...); err != nil {
		return r, err
	}
	if r.beside, err = usage.CPU(c.beside...); err != nil {
		return r, err
	}
	if r.driver, err = usage.Self(); err != nil {
		return r, err
	}
	r.machine, err = usage.ReadMachine()
	return r, err
}

// measure drives a plan through a contender for a window's time.
func (b *bench) measure(ctx context.Context, c *contender, plan wire.Plan) (sample, error) {
	driver, err := wire.Start(plan)
	if err != nil {
		return nil, err
	}
	s, err := b.watch(ctx, c, driver)
	tally, failure := driver.Close()
	if err != nil {
		return nil, err
	}
	if tally.Ops+tally.Failures == 0 {
		return nil, errors.New("no operation has ended in the window")
	}
	if tally.Ops == 0 || float64(tally.Failures) > maxFailing*float64(tally.Ops) {
		return nil, fmt.Errorf("%d of %d operations failed: %w", tally.Failures, tally.Ops+tally.Failures, failure)
	}
	s["failures"], s["redials"] = float64(tally.Failures), float64(tally.Redials)
	if len(tally.Latencies) > 0 {
		slices.Sort(tally.Latencies)
		s["p50_us"] = microseconds(percentile(tally.Latencies, 50))
		s["p99_us"] = microseconds(percentile(tally.Latencies, 99))
	}
	return s, nil
}

// maxFailing is the share of operations that may fail in a round that counts.
const maxFailing = 0.001

// watch measures the window of a running driver.
func (b *bench) watch(ctx context.Context, c *contender, driver *wire.Driver) (sample, error) {
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	driver.Measure()
	stopProfile, err := b.profile(ctx, c)
	if err != nil {
		return nil, err
	}
	before, err := read(c, driver)
	if err != nil {
		stopProfile(0)
		return nil, err
	}
	select {
	case <-ctx.Done():
	case <-driver.Done():
	case <-time.After(b.settings.window):
	}
	after, err := read(c, driver)
	stopProfile(after.ops)
	if err = firstOf(context.Cause(ctx), err); err != nil {
		return nil, err
	}
	ops := float64(after.ops - before.ops)
	wall := after.at.Sub(before.at)
	s := sample{
		"ops_per_s": ops / wall.Seconds(),
		"busy":      after.machine.Since(before.machine),
		"driver":    float64(after.driver-before.driver) / float64(wall),
	}
	if len(c.pids) > 0 {
		s["cpu_us"] = microseconds(after.cpu-before.cpu) / ops
		s["cores"] = float64(after.cpu-before.cpu) / float64(wall)
	}
	if len(c.beside) > 0 {
		s["beside_cpu_us"] = microseconds(after.beside-before.beside) / ops
	}
	return s, nil
}

// sleep waits for d, or for the context's end, which is an error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
