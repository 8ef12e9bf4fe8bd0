// Package proc runs and watches other programs: it starts them in a process group of their own, so
// that a Ctrl-C on the terminal reaches only the one that supervises, signals them, waits for their
// ends, and sees to it (on Linux) that they do not outlive the supervisor, however it ends.
package proc

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// outputDelay is how long a process that has ended may keep its output open through a child of its
// own.
const outputDelay = 2 * time.Second

// Spec says what to run.
type Spec struct {
	Name   string    // for errors
	Path   string    // the program
	Args   []string  // without the program's name
	Env    []string  // added to this process's environment
	Dir    string    // working directory; empty for this process's
	Output io.Writer // takes stdout and stderr; an *os.File is handed over as it is, nil discards
}

// Process is a program that was started. Its methods may be called from any goroutine.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed after the process has ended and its output is complete
}

// Start runs the program. The caller must end it, with Stop or Kill.
func Start(spec Spec) (*Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Dir = spec.Dir
	cmd.Stdout, cmd.Stderr = spec.Output, spec.Output
	cmd.WaitDelay = outputDelay
	cmd.SysProcAttr = attributes()
	p := &Process{name: spec.Name, cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return p, nil
}

// run owns the process from its start to its end, and keeps one thread for it: the kernel tells a
// child that its parent has died when the thread that started it ends.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode is the process's exit code: -1 when a signal ended it, or while it runs.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends sig. A process that has ended already is an error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Wait waits for the process's end and returns its exit code, or the context's error.
func (p *Process) Wait(ctx context.Context) (exitCode int, err error) {
	select {
	case <-p.done:
		return p.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("%s has not ended: %w", p.name, context.Cause(ctx))
	}
}

// Stop asks the process to end (SIGTERM) and kills it once ctx is over. It returns the exit code,
// and an error if it had to kill.
func (p *Process) Stop(ctx context.Context) (exitCode int, err error) {
	_ = p.Signal(syscall.SIGTERM) // an error means that it has ended
	if exitCode, err = p.Wait(ctx); err != nil {
		p.Kill()
	}
	return exitCode, err
}

// Kill ends the process at once (SIGKILL) and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.done
}
