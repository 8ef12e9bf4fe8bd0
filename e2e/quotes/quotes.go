// Package quotes keeps code in documents true: what a document shows is, letter by letter, part of
// a file that a test runs.
//
// In the document, a comment before the block names the file, from the module's root, and a place
// in it:
//
//	<!-- quote: connlimit/from_test.go netutil -->
//	```go
//	…
//	```
//
// In the file, comments mark the place. Whatever begins a comment there may stand before the words:
//
//	// quote: netutil
//	…
//	// end quote
//
// The indentation that all quoted lines share is left out. In a Go file, the place is inside a
// test, or an example with an output: both are run. Another file is run by a test that reads it.
//
// A block of somebody else's code, as it is before a change, has <!-- theirs --> before it.
package quotes

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// Check returns a sentence for each block of the document that is not what it quotes, or quotes
// nothing. root is the module's.
func Check(root, document string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		return nil, err
	}
	var wrong []string
	mark, lines := "", strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		switch {
		case strings.HasPrefix(line, "<!--"):
			mark = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(line, "<!--"), "-->"))
		case strings.HasPrefix(line, "```"):
			first := i + 1
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
			}
			if why := checkBlock(root, mark, strings.Join(lines[min(first, len(lines)):min(i, len(lines))], "\n")); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s", document, first, why))
			}
			mark = ""
		case line != "":
			mark = ""
		}
	}
	return wrong, nil
}

func checkBlock(root, mark, block string) string {
	if mark == "theirs" {
		return ""
	}
	place, ok := strings.CutPrefix(mark, "quote: ")
	file, name, two := strings.Cut(place, " ")
	if !ok || !two {
		return "a block of code without <!-- quote: FILE NAME --> or <!-- theirs --> before it"
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return err.Error()
	}
	quoted, line, err := find(string(text), name)
	if err != nil {
		return fmt.Sprintf("%s: %v", file, err)
	}
	if strings.HasSuffix(file, ".go") {
		if err := isRun(file, string(text), line); err != nil {
			return fmt.Sprintf("%s: %v", file, err)
		}
	}
	if quoted != block {
		return fmt.Sprintf("the block is not what %s has at %q. It has:\n%s", file, name, quoted)
	}
	return ""
}

// find returns the lines of the place, and the line at which it begins.
func find(text, name string) (quoted string, line int, err error) {
	var in []string
	for i, l := range strings.Split(text, "\n") {
		words := strings.Fields(l)
		switch {
		case line == 0 && len(words) == 3 && words[1] == "quote:" && words[2] == name:
			line = i + 1
		case line > 0 && len(words) == 3 && words[1] == "end" && words[2] == "quote":
			return dedent(in), line, nil
		case line > 0:
			in = append(in, l)
		}
	}
	if line > 0 {
		return "", 0, fmt.Errorf("the quote %q has no end", name)
	}
	return "", 0, fmt.Errorf("there is no quote %q", name)
}

func dedent(lines []string) string {
	shared := ""
	for i, l := range lines {
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		if i == 0 {
			shared = indent
		}
		for l != "" && !strings.HasPrefix(indent, shared) {
			shared = shared[:len(shared)-1]
		}
	}
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], shared)
	}
	return strings.Join(lines, "\n")
}

// isRun returns an error if no test runs the line.
func isRun(file, text string, line int) error {
	if !strings.HasSuffix(file, "_test.go") {
		return fmt.Errorf("not a test file")
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, text, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || set.Position(f.Pos()).Line > line || set.Position(f.End()).Line < line {
			continue
		}
		body := text[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset]
		switch name := f.Name.Name; {
		case strings.HasPrefix(name, "Test"):
			return nil
		case strings.HasPrefix(name, "Example") && strings.Contains(body, "// Output:"):
			return nil
		default:
			return fmt.Errorf("%s is neither a test nor an example with an output: it is not run", name)
		}
	}
	return fmt.Errorf("the quote is in no function")
}
