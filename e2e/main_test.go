package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// These carry the programs' paths from TestMain to the tests.
const (
	binaryVariable = "WEIR_E2E_BIN"    // of weir
	faultsVariable = "WEIR_E2E_FAULTS" // of weir with clocks that a test can set
	hammerVariable = "WEIR_E2E_HAMMER" // of the measuring program
)

// logsVariable names a directory that keeps the nodes' files.
const logsVariable = "WEIR_E2E_LOGS"

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

// build makes the programs in dir, but for those that are named.
func build(dir string) error {
	var race []string
	if os.Getenv("WEIR_E2E_RACE") != "" {
		race = []string{"-race"}
	}
	return errors.Join(
		buildOne(binaryVariable, filepath.Join(dir, "weir"), "../cmd/weir", race...),
		buildOne(faultsVariable, filepath.Join(dir, "weir-faults"), "../cmd/weir", append(race, "-tags=faults")...),
		buildOne(hammerVariable, filepath.Join(dir, "hammer"), "./hammer"),
	)
}

func buildOne(variable, out, source string, flags ...string) error {
	if os.Getenv(variable) != "" {
		return nil
	}
	args := append(append([]string{"build", "-o", out}, flags...), source)
	if text, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, text)
	}
	return os.Setenv(variable, out)
}
