package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cmd/weir/top"
)

// terminal is a pseudo-terminal, and what was written to it.
type terminal struct {
	tty  *os.File
	keys *os.File
	read chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	keys, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	v := &terminal{tty: tty, keys: keys, read: make(chan struct{})}
	go func() {
		defer close(v.read)
		b := make([]byte, 4096)
		for {
			n, err := keys.Read(b)
			v.mu.Lock()
			v.text.Write(b[:n])
			v.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		_ = keys.Close()
		<-v.read
	})
	return v
}

func (v *terminal) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.String()
}

// waitFor waits until the terminal was sent a text.
func (v *terminal) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if strings.Contains(v.String(), text) {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			tick.Stop()
			t.Fatalf("no %q in %q", text, v.String())
		}
	}
}

// restored checks that the terminal is as it was.
func (v *terminal) restored(t *testing.T, before *term.State) {
	t.Helper()
	after, err := term.GetState(int(v.tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("the terminal's modes: %+v, before %+v", after, before)
	}
	text := v.String()
	for on, off := range map[string]string{"\x1b[?1049h": "\x1b[?1049l", "\x1b[?25l": "\x1b[?25h"} {
		if strings.LastIndex(text, on) > strings.LastIndex(text, off) || !strings.Contains(text, on) {
			t.Errorf("%q is not undone by %q", on, off)
		}
	}
}

func (v *terminal) state(t *testing.T) *term.State {
	t.Helper()
	s, err := term.GetState(int(v.tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (v *terminal) process(env ...string) *process {
	p := testProcess(append([]string{"TERM=xterm-256color", "LANG=C.UTF-8"}, env...)...)
	p.stdin = v.tty
	p.rows = func() (int, bool) { return 24, true }
	p.tick = 100 * time.Millisecond
	return p
}

// streamAPI is a node that tells its status and, as a stream, one host; then it is silent until it
// is closed.
func streamAPI(t *testing.T) string {
	t.Helper()
	gone := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/events":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "event: status\ndata: %s\n\n", statusJSON)
			fmt.Fprint(w, "event: nodes\ndata: {\"view\":\"a\",\"nodes\":[{\"name\":\"a\",\"role\":\"server\",\"health\":\"alive\",\"session\":\"live\",\"reclaim_in\":null}]}\n\n")
			for second := range 2 {
				fmt.Fprintf(w, "event: use\ndata: {\"time\":\"2026-01-02T03:04:0%dZ\",\"full\":true,\"hosts\":[%s]}\n\n", second, hostJSON)
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-gone:
			}
		case "/v1/connections":
			fmt.Fprint(w, `{"connections":[{"id":"7","node":"a","client":"10.9.8.7:6","host":"api.example.com","port":443,"protocol":"connect","since":"2026-01-02T03:04:05Z","age":"3s"}]}`)
		case "/v1/hosts/API.example.com":
			fmt.Fprint(w, hostJSON)
		default:
			fmt.Fprint(w, statusJSON)
		}
	}))
	t.Cleanup(func() {
		close(gone)
		srv.Close()
	})
	return srv.URL
}

// TestScreen: what is drawn on a terminal, and that it is the user's again afterwards.
func TestScreen(t *testing.T) {
	for _, c := range []struct {
		args string
		env  string
		want []string
		keys string
		not  string
	}{
		{"top", "", []string{"\x1b[?1049h", "leader b, term 2", "alive", "api.example.com", "\x1b[34m"}, "q", ""},
		{"top", "NO_COLOR=1", []string{"api.example.com", "BBB"}, "\x03", "\x1b[34m"},
		{"hosts --watch --sort in_use", "", []string{"IN USE▼", "api.example.com"}, "q", "HEALTH"},
		{"hosts API.example.com --watch", "", []string{"limit 5", "10.9.8.7:6"}, "\x1b[A" + "q", "HEALTH"},
	} {
		t.Run(c.args+c.env, func(t *testing.T) {
			v := openTerminal(t)
			before := v.state(t)
			ended := make(chan int)
			go func() {
				args := append(strings.Fields(c.args), "--addr", streamAPI(t))
				ended <- run(context.Background(), v.process(c.env), args, v.tty, v.tty)
			}()
			for _, text := range c.want {
				v.waitFor(t, text)
			}
			if _, err := io.WriteString(v.keys, c.keys); err != nil {
				t.Fatal(err)
			}
			if code := <-ended; code != 0 {
				t.Errorf("exit %d: %q", code, v.String())
			}
			v.waitFor(t, "\x1b[?1049l")
			v.waitFor(t, "\x1b[?25h")
			v.restored(t, before)
			if c.not != "" && strings.Contains(v.String(), c.not) {
				t.Errorf("%q is in %q", c.not, v.String())
			}
		})
	}
}

// TestScreenRefusals: what can't begin is an error on an untouched terminal.
func TestScreenRefusals(t *testing.T) {
	v := openTerminal(t)
	addr := streamAPI(t)
	for args, want := range map[string]int{
		"hosts --watch --after x --addr " + addr:    2,
		"top --addr http://127.0.0.1:1":             1,
		"hosts --watch --addr http://127.0.0.1:1":   1,
		"hosts x --watch --addr http://127.0.0.1:1": 1,
	} {
		var errs bytes.Buffer
		if code := run(context.Background(), v.process(), strings.Fields(args), v.tty, &errs); code != want || errs.Len() == 0 {
			t.Errorf("%s: exit %d, %s", args, code, &errs)
		}
	}
	if text := v.String(); text != "" {
		t.Errorf("written: %q", text)
	}
}

// TestScreenPanics: a fault of weir's own must not cost the user the terminal. It happens in a
// process of its own, which it ends.
func TestScreenPanics(t *testing.T) {
	const inside = "WEIR_TEST_PANIC"
	if os.Getenv(inside) != "" {
		s := &screen{model: top.New(top.Options{}), interval: time.Hour}
		now := make(chan os.Signal, 1)
		signal.Notify(now, syscall.SIGUSR1)
		err := s.run(context.Background(), thisProcess(), os.Stdout, func(_ context.Context, send func(tea.Msg)) {
			<-now
			send(tea.BatchMsg{func() tea.Msg { panic("a fault") }})
		})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(map[bool]int{true: 3, false: 4}[errors.Is(err, tea.ErrProgramPanic)])
	}
	v := openTerminal(t)
	before := v.state(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestScreenPanics$")
	cmd.Env = append(os.Environ(), inside+"=1", "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = v.tty, v.tty, v.tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.waitFor(t, "\x1b[?1049h")
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v: %q", err, v.String())
	}
	v.waitFor(t, "\x1b[?1049l")
	v.waitFor(t, "\x1b[?25h")
	v.restored(t, before)
}

// TestFollowComesBack: a stream that ends is begun again behind its last event, and what went wrong
// is told.
func TestFollowComesBack(t *testing.T) {
	var mu sync.Mutex
	var after []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		after = append(after, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "id: %d\nevent: leader\ndata: {\"text\":\"a leads\"}\n\n", len(after))
	}))
	defer srv.Close()
	c, err := api.NewClient(srv.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	follow(ctx, c, func(msg tea.Msg) {
		switch msg := msg.(type) {
		case lostMsg:
			told = append(told, "lost: "+msg.why)
		case api.Notice:
			told = append(told, msg.Event.Text)
			if len(told) == 3 {
				cancel()
			}
		}
	})
	if len(told) < 3 || told[0] != "a leads" || !strings.HasPrefix(told[1], "lost: the node has ended the stream") || told[2] != "a leads" {
		t.Errorf("%q", told)
	}
	if len(after) < 2 || after[0] != "" || after[1] != "1" {
		t.Errorf("%q", after)
	}
}

func TestLocale(t *testing.T) {
	for env, want := range map[string]bool{"LANG=en_GB.UTF-8": true, "LANG=C": false, "LC_ALL=C.utf8": true, "X=utf8": false} {
		if testProcess(env).unicode() != want {
			t.Errorf("%s: %v", env, !want)
		}
	}
	if testProcess("LC_ALL=C", "LANG=en_GB.UTF-8").unicode() {
		t.Error("LC_ALL goes before LANG")
	}
}
