package quotes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocuments: what these documents show is what is run: all of it, or what says so.
func TestDocuments(t *testing.T) {
	for document, all := range map[string]bool{"docs/from.md": true, "docs/servers.md": true, "README.md": false} {
		wrong, err := Check("../..", document)
		if err != nil {
			t.Error(err)
		}
		for _, w := range wrong {
			if all || !strings.Contains(w, "without <!-- quote") {
				t.Error(w)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	const code = `package a

func TestA(t *testing.T) {
	if true {
		// quote: a
		x := 1

			y := 2
		// end quote
	}
}

func Example() {
	// quote: silent
	// end quote
}

func ExampleA() {
	// quote: run
	run()
	// end quote
	// Output:
}

func helper() {
	// quote: helper
	// end quote
}

// quote: open
`
	root := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a_test.go", code)
	write("a.go", "package a\n\nfunc TestX() {\n// quote: a\n// end quote\n}\n")
	write("a.py", "  # quote: a\n  x = 1\n  # end quote\n")
	for _, test := range []struct{ document, wrong string }{
		{"text\n<!-- quote: a_test.go a -->\n```go\nx := 1\n\n\ty := 2\n```\n", ""},
		{"<!-- quote: a_test.go run -->\n\n```go\nrun()\n```\n", ""},
		{"<!-- quote: a.py a -->\n```python\nx = 1\n```\n", ""},
		{"<!-- theirs -->\n```go\nanything\n```\n", ""},
		{"```go\nx := 1\n```\n", "without <!-- quote"},
		{"<!-- theirs -->\nbetween\n```go\nx := 1\n```\n", "without <!-- quote"},
		{"<!-- quote: a_test.go a -->\n```go\nx := 2\n```\n", `not what a_test.go has at "a"`},
		{"<!-- quote: a_test.go b -->\n```go\n```\n", `there is no quote "b"`},
		{"<!-- quote: a_test.go open -->\n```go\n```\n", `no end`},
		{"<!-- quote: a_test.go silent -->\n```go\n```\n", "Example is neither a test nor an example with an output"},
		{"<!-- quote: a_test.go helper -->\n```go\n```\n", "helper is neither"},
		{"<!-- quote: a.go a -->\n```go\n```\n", "not a test file"},
		{"<!-- quote: none.go a -->\n```go\n```\n", "no such file"},
	} {
		write("doc.md", test.document)
		wrong, err := Check(root, "doc.md")
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(wrong, "\n")
		if (got == "") != (test.wrong == "") || !strings.Contains(got, test.wrong) {
			t.Errorf("%q: %q; want %q", test.document, got, test.wrong)
		}
	}
}
