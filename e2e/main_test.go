package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binaryVariable carries the binary's path from TestMain to the tests.
const binaryVariable = "WEIR_E2E_BIN"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build makes the binary in dir unless one is named.
func build(dir string) error {
	if os.Getenv(binaryVariable) != "" {
		return nil
	}
	path := filepath.Join(dir, "weir")
	args := []string{"build", "-o", path}
	if os.Getenv("WEIR_E2E_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "../cmd/weir")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build cmd/weir: %w\n%s", err, out)
	}
	return os.Setenv(binaryVariable, path)
}
