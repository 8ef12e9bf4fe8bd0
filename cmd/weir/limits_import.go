package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/cmd/weir/gost"
	"github.com/weirproxy/weir/config"
)

// maxImport bounds a file that is imported, in bytes.
const maxImport = 16 << 20

func newLimitsImportCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "import --gost FILE.yaml",
		Short: "Write the limits of another program's config as a limits block",
		Long: `Write the limiters, rlimiters and climiters of a GOST v3 config (YAML or JSON) to standard output, as a limits
block that weir limits apply and a node's config take. Nothing is asked of the cluster, and nothing is changed.

GOST takes a value that does not parse for no limit. Each line that means something else here, or nothing, is named
on standard error with its place; the exit code is 0 all the same.`,
		Example: `  weir limits import --gost gost.yaml > limits.hcl
  weir limits apply limits.hcl --dry-run`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&path, "gost", "", "the GOST config to read, a `file`; - reads standard input")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if path == "" {
			return usagef(cmd, "--gost is missing: give the file to read")
		}
		return importGOST(cmd, path)
	}
	return cmd
}

// importHeader says what is different of every line.
const importHeader = `# From %s. Every limit holds for the whole cluster, where GOST's hold for each process and service.
# connections counts tunnels and requests in hand, and requests counts those that begin;
# GOST counts the connections that clients open.
`

func importGOST(cmd *cobra.Command, path string) error {
	src, err := readImport(cmd, path)
	if err != nil {
		return err
	}
	limits, warnings, err := gost.Convert(src)
	for _, w := range warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s:%d: %s\n", printable(path), w.Line, printable(w.Text))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(limits) == 0 {
		return fmt.Errorf("%s: no line of it sets a limit", path)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), importHeader+"%s", printable(path), config.FormatLimits(limits))
	return err
}

// readImport reads a file, or standard input for "-".
func readImport(cmd *cobra.Command, path string) ([]byte, error) {
	r := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	src, err := io.ReadAll(io.LimitReader(r, maxImport+1))
	if err == nil && len(src) > maxImport {
		err = errors.New(path + " is longer than 16 MiB")
	}
	return src, err
}
