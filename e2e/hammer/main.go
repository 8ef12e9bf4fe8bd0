// Command hammer measures proxies from outside: it starts a counting upstream, sends workers to it
// through the proxies for some seconds, and prints a report as JSON. It is a program of its own
// because the end-to-end tests run under the race detector, which would make their own workers and
// upstream the slowest part of what they measure.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/upstream"
)

func main() {
	var plan load.Plan
	var goal load.Goal
	listen := flag.String("upstream", "127.0.0.1:0", "where the upstream listens")
	proxies := flag.String("proxies", "", "the proxies, host:port with commas between")
	flag.IntVar(&plan.Workers, "workers", 64, "workers, over all proxies")
	flag.DurationVar(&plan.Hold, "hold", 30*time.Millisecond, "how long a connection lives, on a quick machine: as many times longer as this one is slower")
	flag.BoolVar(&plan.Plain, "plain", false, "absolute-form requests rather than CONNECT")
	flag.DurationVar(&plan.Pause, "pause", 20*time.Millisecond, "a worker's pause after a refusal, likewise")
	flag.IntVar(&goal.Limit, "limit", 0, "the upstream's limit, set at the proxies by the caller")
	flag.Float64Var(&goal.Use, "use", 0.95, "measure on while the mean use is below this share of the limit")
	flag.Float64Var(&goal.Jain, "jain", 0.95, "or Jain's index below this")
	flag.DurationVar(&goal.Window, "window", 3*time.Second, "measure at least so long")
	flag.IntVar(&goal.Windows, "windows", 5, "and at most so many times")
	flag.DurationVar(&goal.WarmUp, "warm-up", 5*time.Second, "wait so long until the limit is reached")
	flag.DurationVar(&goal.LetDrain, "let-drain", 0, "wait so long until no connection is open, at the end")
	gauge := flag.Bool("gauge", false, "print how slow this machine is, and do nothing else")
	wakes := flag.Int("wakes", 0, "print which share of a core a program costs here that wakes so many times a second, and do nothing else")
	flag.Parse()
	if *gauge {
		printGauge(load.Slowness())
		return
	}
	if *wakes > 0 {
		printGauge(load.Wakes(*wakes, 3*time.Second))
		return
	}
	if *proxies == "" || goal.Limit < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	plan.Proxies = strings.Split(*proxies, ",")
	if err := hammer(*listen, plan, goal); err != nil {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
}

func hammer(listen string, plan load.Plan, goal load.Goal) error {
	up, err := upstream.Start(listen, nil)
	if err != nil {
		return err
	}
	slowness, err := load.Slowness()
	if err != nil {
		return err
	}
	plan.Target = up.Addr()
	plan.Hold, plan.Pause = stretch(plan.Hold, slowness), stretch(plan.Pause, slowness)
	report := load.Measure(up, plan, goal)
	report.Slowness = slowness
	if err := up.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

func stretch(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

func printGauge(measured float64, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
	fmt.Println(measured)
}
