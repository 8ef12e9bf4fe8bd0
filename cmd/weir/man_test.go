package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var writeDocs = flag.Bool("write-docs", false, "write docs/man anew, where it differs from the commands")

const manDir = "../../docs/man"

// TestManDocument: docs/man has a page for each command, as the command explains itself.
//
// The pages are written here, and not by cobra's own generator: that takes the texts for Markdown,
// in which *.example.org is an emphasis, and dates each page.
func TestManDocument(t *testing.T) {
	want := map[string]string{}
	walkCommands(testRoot(), func(cmd *cobra.Command) { want[manName(cmd)+".1"] = manPage(cmd) })
	entries, err := os.ReadDir(manDir)
	if err != nil && !*writeDocs {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := want[e.Name()]; ok {
			continue
		}
		if !*writeDocs {
			t.Errorf("%s is of no command: make docs removes it", e.Name())
		} else if err := os.Remove(filepath.Join(manDir, e.Name())); err != nil {
			t.Error(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		path := filepath.Join(manDir, name)
		have, err := os.ReadFile(path)
		if err == nil && string(have) == want[name] {
			continue
		}
		if !*writeDocs {
			t.Errorf("%s differs from the command; make docs writes it anew (-file +code): %v\n%s", path, err, cmp.Diff(string(have), want[name]))
		} else if err := os.WriteFile(path, []byte(want[name]), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// testRoot is the whole command line, as main puts it together.
func testRoot() *cobra.Command {
	root := newRootCommand(thisProcess(), nodeCommands()...)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}

// walkCommands visits every command that a user sees.
func walkCommands(cmd *cobra.Command, visit func(*cobra.Command)) {
	if cmd.Name() == "help" || cmd.Hidden {
		return
	}
	cmd.InitDefaultHelpFlag()
	cmd.InheritedFlags() // puts those of its parents into its Flags
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walkCommands(sub, visit)
	}
}

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is a command's page, in the macros of man(7). It has no date: the same commands have the
// same pages.
func manPage(cmd *cobra.Command) string {
	var b strings.Builder
	name := manName(cmd)
	fmt.Fprintf(&b, ".\\\" Written from the commands by make docs.\n.TH %s 1 \"\" weir \"weir's manual\"\n", strings.ToUpper(roff(name)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(use))
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	b.WriteString(".SH DESCRIPTION\n" + manText(long))
	manCommands(&b, cmd)
	manFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	manFlags(&b, "COMMON OPTIONS", cmd.InheritedFlags())
	manEnvironment(&b, cmd)
	if cmd.Example != "" {
		b.WriteString(".SH EXAMPLES\n.nf\n" + roffLines(unindented(cmd.Example)) + ".fi\n")
	}
	b.WriteString(".SH EXIT STATUS\n0: done. 1: failed. 2: the command line can't be understood.\n")
	manSeeAlso(&b, cmd)
	return b.String()
}

func manCommands(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	b.WriteString(".SH COMMANDS\n")
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			fmt.Fprintf(b, ".TP\n.BR %s (1)\n%s\n", roff(manName(sub)), roff(sub.Short))
		}
	}
}

func manFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		if value != "" {
			value = " " + value
		}
		fmt.Fprintf(b, ".TP\n.BI \"%s\" \"%s\"\n", roff(names), roff(value))
		if zero := map[string]bool{"": true, "false": true, "0": true, "0s": true, "[]": true}; !zero[f.DefValue] {
			usage += " (default " + f.DefValue + ")"
		}
		b.WriteString(roff(usage) + "\n")
	})
}

// manEnvironment names the variables that a command's flags name, in brackets, and those of all
// that draw.
func manEnvironment(b *strings.Builder, cmd *cobra.Command) {
	variables := map[string]string{}
	named := regexp.MustCompile(`\((WEIR_[A-Z_]+)`)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		for _, found := range named.FindAllStringSubmatch(f.Usage, -1) {
			variables[found[1]] = "The value of --" + f.Name + ", where that is not given."
		}
	})
	if cmd.Name() == "top" || cmd.Name() == "hosts" || cmd.Name() == "apply" {
		variables["NO_COLOR"] = "Set to anything: no colours."
	}
	if len(variables) == 0 {
		return
	}
	b.WriteString(".SH ENVIRONMENT\n")
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(name), roff(variables[name]))
	}
}

func manSeeAlso(b *strings.Builder, cmd *cobra.Command) {
	var pages []string
	if cmd.HasParent() {
		pages = append(pages, manName(cmd.Parent()))
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			pages = append(pages, manName(sub))
		}
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, page := range pages {
		end := ","
		if i == len(pages)-1 {
			end = ""
		}
		fmt.Fprintf(b, ".BR %s (1)%s\n", roff(page), end)
	}
}

// manText sets paragraphs; lines that are indented stay as they are.
func manText(text string) string {
	var b strings.Builder
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, "  ") {
			b.WriteString(".nf\n" + roffLines(paragraph) + ".fi\n")
			continue
		}
		b.WriteString(roffLines(paragraph))
	}
	return b.String()
}

func roffLines(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(roff(line) + "\n")
	}
	return b.String()
}

// roff keeps a line of text from being taken for requests and escapes (groff(7)).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "’", "'").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// unindented takes off what all lines begin with.
func unindented(s string) string {
	return regexp.MustCompile(`(?m)^  `).ReplaceAllString(s, "")
}
