package main

import (
	"bytes"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// listenNotify is a service manager: what it is told comes out of the function, "" for nothing
// within a while.
func listenNotify(t *testing.T, socket string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func() string {
		b := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ := conn.Read(b) // an error means that nothing has come
		return string(b[:n])
	}
}

// environment is a getenv over pairs.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestNotify(t *testing.T) {
	for _, socket := range []string{filepath.Join(t.TempDir(), "notify"), "@weir-test-" + strconv.FormatInt(time.Now().UnixNano(), 36)} {
		told := listenNotify(t, socket)
		var log bytes.Buffer
		n := newNotifier(environment("NOTIFY_SOCKET", socket), 7, hclog.New(&hclog.LoggerOptions{Output: &log}))
		defer n.close()
		for _, step := range []struct {
			do   func()
			want string // the message's beginning
		}{
			{n.ready, "READY=1"},
			{n.reloading, "RELOADING=1\nMONOTONIC_USEC="},
			{func() { n.stopping(45 * time.Second) }, "STOPPING=1\nEXTEND_TIMEOUT_USEC=75000000\nSTATUS="},
			{func() { n.alive(time.Second, "two\nlines") }, "WATCHDOG=1\nSTATUS=two lines"},
			{func() { n.alive(maxLate+1, "x") }, ""},
		} {
			step.do()
			if got := told(); !strings.HasPrefix(got, step.want) || step.want == "" && got != "" {
				t.Errorf("%s: got %q, want %q", socket, got, step.want)
			}
		}
		if n.due() != nil {
			t.Error("signs of life are due, though nobody expects any")
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "watchdog") {
			t.Errorf("the log says %q", got)
		}
	}
}

// The clock that a reload is dated by is the one that the service manager reads.
func TestReloadIsDated(t *testing.T) {
	before := monotonic()
	if after := monotonic(); before <= 0 || after < before {
		t.Errorf("the clock went from %v to %v", before, after)
	}
}

func TestWatchdogInterval(t *testing.T) {
	for _, test := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"30000000", "", 15 * time.Second},
		{"30000000", "7", 15 * time.Second},
		{"30000000", "8", 0},
		{"0", "7", 0},
		{"-5", "7", 0},
		{"1", "7", time.Millisecond},
		{"9223372036854775807", "7", 0},
		{"soon", "7", 0},
	} {
		if got := watchdogInterval(environment("WATCHDOG_USEC", test.usec, "WATCHDOG_PID", test.pid), 7); got != test.want {
			t.Errorf("WATCHDOG_USEC=%q WATCHDOG_PID=%q: %v, want %v", test.usec, test.pid, got, test.want)
		}
	}
}

// Without a socket nobody is told, and with one that can't be reached the log is, not the caller.
func TestNotifyNobody(t *testing.T) {
	for socket, want := range map[string]string{
		"": "", "vsock:2:1234": "NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"): "can't be told",
	} {
		var log bytes.Buffer
		n := newNotifier(environment("NOTIFY_SOCKET", socket, "WATCHDOG_USEC", "30000000"), 7, hclog.New(&hclog.LoggerOptions{Output: &log}))
		n.ready()
		n.close()
		if got := log.String(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("NOTIFY_SOCKET=%q: the log says %q, want %q", socket, got, want)
		}
	}
}
