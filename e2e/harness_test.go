package e2e

import (
	"net"
	"slices"
	"testing"
)

func TestComplaint(t *testing.T) {
	const log = "2026-01-02T03:04:05.678Z [INFO]  agent: starting\n" +
		"2026-01-02T03:04:05.679+0200 [WARN]  cluster: slow\n\n" +
		"Error: 127.0.0.1:1 is taken\n"
	if got := complaint(t, log); got != "Error: 127.0.0.1:1 is taken" {
		t.Errorf("complaint %q", got)
	}
}

func TestCrashIsFound(t *testing.T) {
	for text, want := range map[string]bool{
		"all well\n": false, "x: panic: in the middle\n": false, "first\npanic: oops\n": true,
		"fatal error: all goroutines are asleep": true, "====\nWARNING: DATA RACE\nRead at": true,
	} {
		if got := crash.MatchString(text); got != want {
			t.Errorf("%q: crash %v; want %v", text, got, want)
		}
	}
}

func TestFreePorts(t *testing.T) {
	addrs := freePorts(t, 12)
	slices.Sort(addrs)
	if len(slices.Compact(addrs)) != 12 {
		t.Fatalf("not 12 distinct addresses: %v", addrs)
	}
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("not free: %v", err)
			continue
		}
		_ = ln.Close()
	}
}
