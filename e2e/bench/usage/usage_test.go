package usage

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spin uses at least d of this process's processor time.
func spin(t *testing.T, d time.Duration) {
	t.Helper()
	used := func() time.Duration {
		var usage unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	for end := used() + d; used() < end; {
	}
}

func TestCPUCountsThisProcessAsGetrusageDoes(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	spin(t, 60*time.Millisecond)
	after, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The two clocks of the kernel are read at different instants, and getrusage scales by ticks.
	if used := after - before; used < 45*time.Millisecond || used > 5*time.Second {
		t.Errorf("%v of processor time were counted; want about 60ms", used)
	}
	if twice, err := CPU(os.Getpid(), os.Getpid()); err != nil || twice < 2*after {
		t.Errorf("two processes: %v, %v; want at least %v", twice, err, 2*after)
	}
}

func TestProcessesThatAreNotThere(t *testing.T) {
	const none = 1 << 22 // one more than the kernel gives out
	if _, err := CPU(none); err == nil {
		t.Error("processor time of a process that is not there")
	}
	if _, err := ReadMemory(none); err == nil {
		t.Error("memory of a process that is not there")
	}
	if _, err := Files(none); err == nil {
		t.Error("descriptors of a process that is not there")
	}
	if _, err := Family(none); err == nil {
		t.Error("family of a process that is not there")
	}
}

func TestParseRollup(t *testing.T) {
	const text = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\nRss:    1234 kB\nPss:      56 kB\nPss_Anon: 7 kB\n"
	got, err := parseRollup([]byte(text))
	if want := (Memory{Resident: 1234 << 10, Proportional: 56 << 10}); got != want || err != nil {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "Rss: 1 kB\n", "Rss: x kB\nPss: 1 kB\n", "Rss: 1 MB\nPss: 1 MB\n"} {
		if got, err := parseRollup([]byte(bad)); err == nil {
			t.Errorf("%q: %+v; want an error", bad, got)
		}
	}
}

func TestMemoryAndFilesOfThisProcess(t *testing.T) {
	m, err := ReadMemory(os.Getpid())
	if err != nil || m.Resident < 1<<20 || m.Proportional > m.Resident {
		t.Errorf("%+v, %v; want some megabytes", m, err)
	}
	before, err := Files(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if after, err := Files(os.Getpid()); after != before+1 || err != nil {
		t.Errorf("%d descriptors, %v; want %d", after, err, before+1)
	}
}

func TestFamily(t *testing.T) {
	// The child says something once it runs, and ends with its input.
	cmd := exec.Command("sh", "-c", "cat & echo $!; wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	family, err := Family(os.Getpid())
	if err != nil || family[0] != os.Getpid() || !slices.Contains(family, cmd.Process.Pid) {
		t.Errorf("family %v, %v; want %d and %d in it", family, err, os.Getpid(), cmd.Process.Pid)
	}
}

func TestParseMachine(t *testing.T) {
	before, err := parseMachine("cpu  10 0 20 70 0 0 0 0 0 0\ncpu0 1 2 3 4\n")
	if want := (Machine{Busy: 300 * time.Millisecond, Total: time.Second}); before != want || err != nil {
		t.Errorf("%+v, %v; want %+v", before, err, want)
	}
	after, err := parseMachine("cpu  20 5 35 130 10 5 5 10 999 0")
	if err != nil {
		t.Fatal(err)
	}
	// 100 + 20 ticks more, 70 of them idle or waiting for a disk.
	if got := after.Since(before); got != 50.0/120 {
		t.Errorf("busy for %v; want %v", got, 50.0/120)
	}
	if got := after.Since(after); got != 0 {
		t.Errorf("busy for %v of no time", got)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu a 0 0 0 0 0 0 0 0", strings.Repeat("1 ", 12)} {
		if got, err := parseMachine(bad); err == nil {
			t.Errorf("%q: %+v; want an error", bad, got)
		}
	}
}
