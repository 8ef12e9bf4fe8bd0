// Command demo runs the three nodes of examples/three-nodes in the foreground until Ctrl-C: `make
// cluster`. With -load (`make demo`) it also starts an upstream that counts its connections and
// workers that go to it through all three nodes, and shows in one line what the nodes and the
// upstream say of it.
//
//	make demo
//	bin/weir limits set 127.0.0.1 --connections 3 --addr http://127.0.0.1:8281    # in another terminal
//	kill -9 $(pgrep -f three-nodes/b.hcl)                                         # see its slots move
//
// The nodes run in process groups of their own, so that Ctrl-C reaches only this program, which
// then asks each of them to stop once. A second Ctrl-C stops them at once. They don't outlive it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"
)

// examples are the nodes of examples/three-nodes; a test keeps their addresses the same as the
// files'.
var examples = []member{
	{name: "a", proxy: "127.0.0.1:8080", api: "127.0.0.1:8081"},
	{name: "b", proxy: "127.0.0.1:8180", api: "127.0.0.1:8181"},
	{name: "c", proxy: "127.0.0.1:8280", api: "127.0.0.1:8281"},
}

// options is what the command line says.
type options struct {
	weir    string        // the binary
	dir     string        // of the nodes' files, NAME.hcl
	load    bool          // run the upstream and the workers
	limit   int           // of connections to the upstream, set at the start
	workers int           // in all
	hold    time.Duration // a connection's life at the upstream
}

func main() {
	var o options
	flag.StringVar(&o.weir, "weir", "bin/weir", "the weir binary")
	flag.StringVar(&o.dir, "dir", "examples/three-nodes", "directory of a.hcl, b.hcl and c.hcl")
	flag.BoolVar(&o.load, "load", false, "also run an upstream that counts and workers that hammer it")
	flag.IntVar(&o.limit, "limit", 10, "with -load: connections that the upstream may see at once")
	flag.IntVar(&o.workers, "workers", 64, "with -load: workers, over all nodes")
	flag.DurationVar(&o.hold, "hold", 30*time.Millisecond, "with -load: how long a connection lives")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := run(o, examples, os.Stdout, term.IsTerminal(int(os.Stdout.Fd())), signals); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run starts the nodes, shows what goes on until a signal comes or all nodes have ended, and stops
// them.
func run(o options, members []member, out *os.File, colour bool, signals <-chan os.Signal) error {
	f := newFleet(out, colour)
	defer f.close()
	for i, m := range members {
		sink := f.screen(i, m.name)
		if o.load { // the log would drown the line
			path := filepath.Join(o.dir, "data", m.name+".log")
			log, err := createLog(path)
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }()
			sink = log
			fmt.Fprintf(out, "node %s: proxy %s, API %s, log in %s\n", m.name, m.proxy, m.api, path)
		}
		if err := f.start(m, o.weir, filepath.Join(o.dir, m.name+".hcl"), sink); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	shown := make(chan error, 1)
	go func() { shown <- f.show(ctx, o, members, out, colour) }()
	var failed error
	select {
	case <-signals:
		cancel()
		failed = <-shown
	case failed = <-shown:
	}
	return f.stop(signals, failed)
}

// show waits until the nodes are ready and then, until ctx is over, shows the load or lets the logs
// speak.
func (f *fleet) show(ctx context.Context, o options, members []member, out *os.File, inPlace bool) error {
	err := f.awaitReady(ctx)
	if err == nil && o.load {
		err = drive(ctx, o, members, out, inPlace)
	}
	if err == nil {
		err = f.awaitEnd(ctx)
	}
	if ctx.Err() != nil {
		return nil // asked to stop, at whatever stage
	}
	return err
}

func createLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.Create(path)
}
