package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is also the program that the tests run.
const roleVariable = "PROC_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

func play(role string) int {
	signals := make(chan os.Signal, 1)
	switch role {
	case "polite":
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("ready")
		<-signals
		fmt.Println("bye")
		return 7
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		<-signals
	case "parent": // starts a child and is then killed
		child, err := Start(Spec{Name: "child", Path: os.Args[0], Env: []string{roleVariable + "=stubborn"}})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(child.Pid())
		<-signals
	}
	return 0
}

// begin starts a role and returns once it has said its first line.
func begin(t *testing.T, role string) (p *Process, first string) {
	t.Helper()
	r, w := io.Pipe()
	p, err := Start(Spec{Name: role, Path: os.Args[0], Env: []string{roleVariable + "=" + role}, Output: w})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	t.Cleanup(func() { _ = r.Close() })
	line := make([]byte, 64)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return p, strings.TrimSpace(string(line[:n]))
}

func TestStopAsksFirst(t *testing.T) {
	p, _ := begin(t, "polite")
	if !p.Running() || p.ExitCode() != -1 {
		t.Errorf("running %v, exit code %d before its end; want true, -1", p.Running(), p.ExitCode())
	}
	code, err := p.Stop(t.Context())
	if code != 7 || err != nil {
		t.Errorf("exit code %d, %v; want 7", code, err)
	}
	if p.Running() || p.ExitCode() != 7 {
		t.Errorf("running %v, exit code %d after its end; want false, 7", p.Running(), p.ExitCode())
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v; want %v", err, os.ErrProcessDone)
	}
}

func TestStopKillsWhenTimeIsUp(t *testing.T) {
	p, _ := begin(t, "stubborn")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if code, err := p.Stop(ctx); code != -1 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("exit code %d, %v; want -1 and %v", code, err, context.DeadlineExceeded)
	}
	if p.Running() {
		t.Error("it runs on")
	}
}

func TestStartNamesWhatItCouldNot(t *testing.T) {
	_, err := Start(Spec{Name: "node a", Path: "/nonexistent/program"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "node a") {
		t.Errorf("error %v; want one that names node a and the missing file", err)
	}
}

func TestSilentProcess(t *testing.T) {
	path, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(Spec{Name: "true", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(t.Context()); code != 0 || err != nil {
		t.Errorf("exit code %d, %v; want 0", code, err)
	}
}

func TestPrefixer(t *testing.T) {
	var out bytes.Buffer
	screen := NewScreen(&out)
	a, b := NewPrefixer(screen, "a | "), NewPrefixer(screen, "b | ")
	for _, step := range []struct {
		w    *Prefixer
		text string
	}{{a, "one\ntw"}, {b, "other\n"}, {a, "o\n\nlast"}, {b, ""}} {
		if n, err := io.WriteString(step.w, step.text); n != len(step.text) || err != nil {
			t.Errorf("wrote %d of %q, %v", n, step.text, err)
		}
	}
	for _, w := range []*Prefixer{a, b, a} {
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
	}
	if got, want := out.String(), "a | one\nb | other\na | two\na | \na | last\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestPrefixerBreaksEndlessLines(t *testing.T) {
	var out bytes.Buffer
	w := NewPrefixer(NewScreen(&out), "")
	if _, err := w.Write(bytes.Repeat([]byte("x"), maxLine+1)); err != nil {
		t.Fatal(err)
	}
	if out.Len() != maxLine+2 || len(w.part) != 0 {
		t.Errorf("%d bytes written and %d kept; want all written", out.Len(), len(w.part))
	}
}

// awaitGone waits until no process has the number pid.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("pid %q: %v", pid, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		if !alive(n) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", n)
		}
	}
}
