package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exposureLimit is ten times the exposure that systemd-analyze security may find, of 100.
const exposureLimit = "20"

// unit reads a unit's settings; one that is given several times has them all.
func unit(t *testing.T) (text string, settings map[string][]string) {
	t.Helper()
	b, err := os.ReadFile("../systemd/weir.service")
	if err != nil {
		t.Fatal(err)
	}
	settings = map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && line[0] != '#' {
			settings[name] = append(settings[name], value)
		}
	}
	return string(b), settings
}

// The unit says what the node does.
func TestSystemdUnit(t *testing.T) {
	_, settings := unit(t)
	for name, want := range map[string]string{
		"Type": "notify", "NotifyAccess": "main", "ExecReload": "/bin/kill -HUP $MAINPID", "Restart": "on-failure",
		"ExecStart":      "/usr/local/bin/weir agent --config /etc/weir/weir.hcl",
		"StateDirectory": "weir", "LoadCredential": "token:/etc/weir/token", "LimitNOFILE": "1048576",
	} {
		if got := strings.Join(settings[name], " & "); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if got := settings["RestartPreventExitStatus"]; got != nil {
		t.Errorf("a node that ends with %s stays down, and 2 is also how the Go runtime ends, after a panic or the watchdog's signal", got)
	}
	for name, least := range map[string]time.Duration{
		"TimeoutStopSec": drainTimeout(t, "../systemd/weir.hcl") + stopReserve,
		"WatchdogSec":    10 * time.Second, // twice what the node takes for stuck
	} {
		if got, err := time.ParseDuration(strings.Join(settings[name], "")); err != nil || got < least {
			t.Errorf("%s is %v, %v; want at least %v", name, got, err, least)
		}
	}
}

// systemd itself accepts the unit, and finds it well sheltered.
func TestSystemdAnalyze(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("NOT TESTED: systemd is not installed, which would verify the unit")
		return
	}
	text, _ := unit(t)
	path := filepath.Join(t.TempDir(), "weir.service")
	// It asks whether the program is there.
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/usr/local/bin/weir", "/bin/true")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold="+exposureLimit, path).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
