package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

var writeDocs = flag.Bool("write-docs", false, "write what docs/configuration.md says of the code anew, where it differs")

const (
	documentPath = "../docs/configuration.md"
	// exampleDir is where the example's files would be; the test has them in testdata.
	exampleDir   = "/etc/weir/"
	examplePaths = "testdata/files/"
)

// TestDocument: docs/configuration.md has every attribute as the code has it, and an example that
// is valid.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	have := string(b)
	want := between(t, have, "reference", referenceText())
	want = between(t, want, "example", "```hcl\n"+exampleText(t)+"```\n")
	if want == have {
		return
	}
	if !*writeDocs {
		t.Fatalf("%s differs from the code; make docs writes it anew (-file +code):\n%s", documentPath, cmp.Diff(have, want))
	}
	if err := os.WriteFile(documentPath, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// between replaces what stands between the comments that name a generated part.
func between(t *testing.T, text, name, part string) string {
	t.Helper()
	begin, end := "<!-- "+name+": written by make docs -->\n", "<!-- end of "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no part between %q and %q", documentPath, begin, end)
	}
	return before + begin + "\n" + part + "\n" + end + after
}

// referenceText is a table for each block. Blocks of limits that say the same are one.
func referenceText() string {
	var tables []table
	for _, f := range Reference() {
		p := parent(f.Path)
		if len(tables) == 0 || tables[len(tables)-1].blocks[0] != p {
			tables = append(tables, table{blocks: []string{p}})
		}
		changed := "restart"
		if f.Reload {
			changed = "reload"
		}
		last := &tables[len(tables)-1]
		last.rows += fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", base(f.Path), f.Type, defaultText(f.Default), changed, f.Doc)
	}
	var b strings.Builder
	for _, t := range mergeTables(tables) {
		fmt.Fprintf(&b, "### %s\n\n| attribute | takes | default | changed by | meaning |\n| --- | --- | --- | --- | --- |\n%s\n", blockTitle(t.blocks), t.rows)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// table is what the reference says of blocks that take the same.
type table struct {
	blocks []string
	rows   string
}

func mergeTables(tables []table) []table {
	var joined []table
	for _, t := range tables {
		i := slices.IndexFunc(joined, func(o table) bool { return o.rows == t.rows && strings.HasPrefix(t.blocks[0], "limits.") })
		if i < 0 {
			joined = append(joined, t)
		} else {
			joined[i].blocks = append(joined[i].blocks, t.blocks...)
		}
	}
	return joined
}

// blockTitle names blocks as the file would open them; those of several scopes of limits in one.
func blockTitle(paths []string) string {
	if paths[0] == "" {
		return "Outside of blocks"
	}
	s := newShape()
	var opened []string
	for p := paths[0]; p != ""; p = parent(p) {
		name := s.opening(p)
		if parent(p) == "limits" && len(paths) > 1 {
			var scopes []string
			for _, other := range paths {
				scopes = append(scopes, s.opening("limits."+strings.Split(other, ".")[1]))
			}
			name = strings.Join(scopes, "｜")
		}
		opened = append(opened, name)
	}
	slices.Reverse(opened)
	return "`" + strings.Join(opened, " { ") + " {" + strings.Repeat(" }", len(opened)) + "`"
}

// defaultText sets a default that is a value in code, and one that is a description as it is.
func defaultText(s string) string {
	if strings.HasPrefix(s, `"`) || strings.HasPrefix(s, "[") || !strings.Contains(s, " ") {
		return "`" + s + "`"
	}
	return s
}

// exampleText is testdata/full.hcl with what the reference says of each attribute above it.
func exampleText(t *testing.T) string {
	t.Helper()
	src, err := os.ReadFile("testdata/full.hcl")
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]Field{}
	for _, f := range Reference() {
		docs[f.Path] = f
	}
	above := map[int]string{} // by line, from 0
	l := newLoader(testOptions())
	l.readAll([]string{"testdata/full.hcl"})
	l.parse()
	said := map[string]bool{} // also what another scope's limit has said already
	var walk func(path string, body *hclsyntax.Body)
	walk = func(path string, body *hclsyntax.Body) {
		for name, a := range body.Attributes {
			above[a.SrcRange.Start.Line-1] = join(path, name)
		}
		for _, b := range body.Blocks {
			walk(join(path, b.Type), b.Body)
		}
	}
	walk("", l.bodies[0])
	var b strings.Builder
	lines := strings.Split(strings.TrimSuffix(string(src), "\n"), "\n")
	for i, line := range lines[1:] { // the first says what the file is for its own readers
		line = strings.ReplaceAll(line, examplePaths, exampleDir)
		if p, ok := above[i+1]; ok && !said[p] && !said[docs[p].Doc] {
			said[p] = true
			if strings.HasPrefix(p, "limits.") {
				said[docs[p].Doc] = true
			}
			indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
			b.WriteString(comment(indent, docs[p].Doc))
		}
		b.WriteString(line + "\n")
	}
	return strings.TrimLeft(b.String(), "\n")
}

// comment wraps a text into lines of comments.
func comment(indent, text string) string {
	const width = 110
	var b strings.Builder
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// TestExampleIsValid loads the example of docs/configuration.md.
func TestExampleIsValid(t *testing.T) {
	b, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "<!-- example:")
	_, rest, ok := strings.Cut(rest, "```hcl\n")
	example, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatal("there is no example")
	}
	file := filepath.Join(t.TempDir(), "weir.hcl")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(example, exampleDir, examplePaths)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, problems := Load([]string{file}, testOptions())
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	full, problems := Load([]string{"testdata/full.hcl"}, testOptions())
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	for _, f := range configFields() {
		if !f.same(c, full) {
			t.Errorf("%s is %s, want %s", f.Path, f.text(c), f.text(full))
		}
	}
	if len(c.Limits) != len(full.Limits) {
		t.Errorf("%d limits, want %d", len(c.Limits), len(full.Limits))
	}
}
