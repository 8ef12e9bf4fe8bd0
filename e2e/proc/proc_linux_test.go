package proc

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// alive reports whether pid runs; a zombie that nobody reaps does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	parent, pid := begin(t, "parent")
	if err := parent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-parent.Done()
	awaitGone(t, pid)
}

func TestOwnProcessGroup(t *testing.T) {
	p, _ := begin(t, "polite")
	group, err := syscall.Getpgid(p.Pid())
	if err != nil || group != p.Pid() {
		t.Errorf("process group %d, %v; want its own, %d", group, err, p.Pid())
	}
}

func TestCPU(t *testing.T) {
	p, _ := begin(t, "polite")
	if used, err := p.CPU(); err != nil || used < 0 || used > time.Minute {
		t.Errorf("processor time %v, %v", used, err)
	}
	stat := "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 8 0 100 0 0"
	if used, err := parseCPU(stat); used != 3*time.Second || err != nil {
		t.Errorf("parsed %v, %v; want 3s", used, err)
	}
	for _, bad := range []string{"", "42 (x) S 1", strings.Replace(stat, "250", "many", 1)} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
