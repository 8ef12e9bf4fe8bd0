package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/config"
)

func newAgentCommand() *cobra.Command {
	var paths []string
	var dev bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node",
		Long: `Run one node: a forward proxy that shares its limits with the other nodes of its cluster.

On SIGTERM or SIGINT the node drains, gives back every slot and exits 0; a second signal stops it at once. SIGHUP reloads.`,
		Example: `  weir agent --dev
  weir agent --config /etc/weir/weir.hcl
  weir agent --config /etc/weir/conf.d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 && !dev {
				return usagef(cmd, "say where the config is (--config PATH), or run a single node without one (--dev)")
			}
			return runAgent(cmd.Context(), source{paths: paths, dev: dev})
		},
	}
	cmd.Flags().StringArrayVar(&paths, "config", nil, "the `path` of a config file, or of a directory of *.hcl; may be repeated")
	cmd.Flags().BoolVar(&dev, "dev", false, "one node, in memory, on loopback: proxy 127.0.0.1:8080, API 127.0.0.1:8081")
	return cmd
}

// source is the origin of a node's config, read at the start and at each reload.
type source struct {
	paths []string
	dev   bool
}

// load reads the config; the error holds every problem, as weir validate prints them.
func (s source) load() (*config.Config, error) {
	c, problems := config.Load(s.paths, config.Options{Dev: s.dev, Running: true})
	if len(problems) > 0 {
		return nil, problemsError(problems)
	}
	return c, nil
}

// problemsError returns a config's problems as one error.
func problemsError(problems config.Diagnostics) error {
	var b strings.Builder
	_ = config.WriteDiagnostics(&b, problems) // a Builder never fails
	return errors.New("the config has " + count(len(problems), "problem") + ":\n" + strings.TrimSuffix(b.String(), "\n"))
}

// agent runs one node for as long as the process lives.
type agent struct {
	node   *weir.Node
	log    hclog.Logger
	notify *notifier
}

// runAgent starts a node, runs it until it must stop, and stops it.
func runAgent(ctx context.Context, src source) error {
	cfg, err := src.load()
	if err != nil {
		return err
	}
	signals := listenSignals()
	defer signals.close()
	var recent logRing
	a := &agent{log: newLogger(cfg.Log, &recent)}
	a.notify = newNotifier(os.Getenv, os.Getpid(), a.log)
	defer a.notify.close()
	b := thisBuild()
	a.node, err = weir.StartFrom(ctx, weir.Source{
		Config: cfg, Load: src.load, Log: a.log, Recent: recent.newest, Lines: os.Stderr, Version: b.Version, Commit: b.Commit,
	})
	if err != nil {
		return err
	}
	return a.run(ctx, signals)
}

// signals are the process's signals. Those that stop the node have a channel of their own, so that
// no number of reloads can displace one.
type signals struct {
	stop   chan os.Signal // SIGTERM and SIGINT: the first drains, the second stops at once
	reload chan os.Signal // SIGHUP: one that waits covers those after it
}

func listenSignals() signals {
	s := signals{stop: make(chan os.Signal, 2), reload: make(chan os.Signal, 1)}
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(s.reload, syscall.SIGHUP)
	return s
}

func (s signals) close() {
	signal.Stop(s.stop)
	signal.Stop(s.reload)
}

// run waits for a signal, a request to leave, or a failure; then it stops the node.
func (a *agent) run(ctx context.Context, signals signals) error {
	a.notify.ready()
	why := a.wait(ctx, signals)
	a.notify.stopping(a.node.Pulse().DrainTimeout)
	closed := make(chan error, 1)
	go func() { closed <- a.node.Close(context.Background()) }()
	return a.finish(why, signals.stop, closed)
}

// wait returns why the node must stop: nil for a signal. It does not wait for a reload, which
// without a leader takes seconds: the context ends it.
func (a *agent) wait(ctx context.Context, signals signals) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reload := signals.reload // nil while one is under way
	reloaded := make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.node.Done():
			return a.node.Err()
		case s := <-signals.stop:
			a.log.Info("stopping: draining first; a second signal stops at once", "signal", s.String())
			return nil
		case <-reload:
			reload = nil
			a.notify.reloading()
			go func() {
				_, err := a.node.Reload(ctx)
				reloaded <- err
			}()
		case err := <-reloaded:
			reload = signals.reload
			if err != nil {
				a.log.Error("reload failed", "error", err)
			}
			a.notify.ready()
		case <-a.notify.due():
			a.pulse()
		}
	}
}

// finish waits for the node's end, or for a signal that stops it at once. That is the second one,
// also when the node was stopping before the first: a service manager sends its signal to a node
// that leaves too.
func (a *agent) finish(why error, stop <-chan os.Signal, closed <-chan error) error {
	leaving := errors.Is(why, weir.ErrLeave)
	signalled := why == nil
	for {
		select {
		case err := <-closed:
			if why != nil && !leaving {
				return why
			}
			if err == nil {
				a.log.Info("stopped")
			}
			return err
		case s := <-stop:
			switch {
			case signalled:
				return fmt.Errorf("stopped at once by a second signal (%v): connections were cut", s)
			case leaving:
				a.log.Info("already leaving; another signal stops at once", "signal", s.String())
				signalled = true
			default:
				a.log.Info("already stopping; another signal stops at once", "signal", s.String())
				signalled = true
			}
		case <-a.notify.due():
			a.notify.alive(0, "stopping") // its time is bounded, here and by the service manager
		}
	}
}

// pulse sends a sign of life for the calling goroutine and the lease.
func (a *agent) pulse() {
	p := a.node.Pulse()
	a.notify.alive(p.Late, fmt.Sprintf("session %s, %s", p.Session, count(p.Connections, "connection")))
}
