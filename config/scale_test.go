package config

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// bigConfigs are files whose size grows with n, one for each part of a config that a program may
// generate: what reads them must not take the square of their size.
var bigConfigs = map[string]func(n int) string{
	"limits": func(n int) string {
		return "limits {\n" + repeated(n, "  host \"h%d.example.com\" {\n    connections = 5\n  }\n") + "}\n"
	},
	"limits with queues": func(n int) string {
		return "limits {\n" + repeated(n, "  host \"h%d.example.com\" {\n    connections = 5\n    queue {\n      timeout = \"1s\"\n      size = 9\n    }\n  }\n") + "}\n"
	},
	"limits with rates": func(n int) string {
		return "limits {\n" + repeated(n, "  client \"fd00::%x\" {\n    requests {\n      rate = \"5/m\"\n    }\n    bandwidth {\n      upload = \"5MB\"\n    }\n  }\n") + "}\n"
	},
	"limits on keys": func(n int) string {
		return "limits {\n" + repeated(n, "  key \"tenant/%d/*\" {\n    connections = 5\n    shared = true\n    mode = \"report\"\n  }\n") + "}\n"
	},
	"limits from the environment": func(n int) string {
		return "limits {\n" + repeated(n, "  host \"${env.A}%d.example.com\" {\n    connections = 5\n  }\n") + "}\n"
	},
	"limits that stand twice": func(n int) string {
		return "limits {\n" + strings.Repeat("  host \"h.example.com\" {}\n", n) + "}\n"
	},
	"limits blocks": func(n int) string {
		return repeated(n, "limits {\n  host \"h%d.example.com\" {}\n}\n")
	},
	"unknown attributes": func(n int) string { return repeated(n, "a%d = 1\n") },
	"unknown blocks":     func(n int) string { return repeated(n, "a%d {}\n") },
	"networks": func(n int) string {
		return "proxy {\n  deny_destinations = [\n" + strings.Repeat("\"10.0.0.0/8\",\n", n) + "]\n}\n"
	},
	"bad networks on one line": func(n int) string {
		return "proxy {\n  deny_destinations = [" + strings.Repeat("1,", n) + "]\n}\n"
	},
	"bad keys": func(n int) string {
		return "cluster {\n  gossip_accept_keys = [\n" + strings.Repeat("\"gossip_accept_keys\",\n", n) + "]\n}\n"
	},
	"syntax errors": func(n int) string { return strings.Repeat("=\n", n) },
	"brackets":      func(n int) string { return "a = [\n" + strings.Repeat("{\n}\n", n) + "]\n" },
}

func repeated(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// loadTime is the least processor time of some runs: the wall clock would measure what else the
// machine does.
func loadTime(t testing.TB, content string, tries int) time.Duration {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big.hcl")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	least := time.Duration(0)
	for range tries {
		runtime.GC()
		began := processorTime(t)
		Load([]string{path}, testOptions())
		if took := processorTime(t) - began; least == 0 || took < least {
			least = took
		}
	}
	return least
}

func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLoadIsLinear compares files of which one is sixteen times as long: sixteen times the work,
// and 256 times where something searches the file anew for each of its lines.
func TestLoadIsLinear(t *testing.T) {
	const n, times, allowed = 125, 16, 80
	for name, content := range bigConfigs {
		t.Run(name, func(t *testing.T) {
			var small, big time.Duration
			for range 3 { // once, unless something else took the processor's caches or time
				small, big = loadTime(t, content(n), 3), loadTime(t, content(times*n), 1)
				t.Logf("%d: %v, %d: %v", n, small, times*n, big)
				if big <= allowed*max(small, time.Millisecond) {
					return
				}
			}
			t.Errorf("a file %d times as long took %.0f times as long: %v and %v", times, float64(big)/float64(small), small, big)
		})
	}
}

// TestManyFilesLoadInOrder names many files: their problems come in the order of the files.
func TestManyFilesLoadInOrder(t *testing.T) {
	var files []string
	for i := range 200 {
		files = append(files, fmt.Sprintf("%03d.hcl", i), "nothing = 1\n")
	}
	_, problems := Load([]string{write(t, files...)}, testOptions())
	for i := 1; i < len(problems); i++ {
		if problems[i].At.File < problems[i-1].At.File {
			t.Fatalf("%s stands behind %s", problems[i].At.File, problems[i-1].At.File)
		}
	}
}

func BenchmarkLoadLimits(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "big.hcl")
			content := "name = \"a\"\ndata_dir = \"d\"\n" + bigConfigs["limits"](n)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, problems := Load([]string{path}, Options{}); len(problems) > 0 {
					b.Fatal(problems)
				}
			}
		})
	}
}

// FuzzShallow compares the judgement by bytes with the lexer's: a file taken for shallow must not
// nest too deeply, nor hold a template that has to be hidden from the parser.
func FuzzShallow(f *testing.F) {
	for _, seed := range []string{
		"", "a {\n}\n", "a = \"[[\\\"[\"\n", "# [\n[ // [\n", "\"\n[\"", "a = [\"\\", "a \"${env.B}\" {}", "/* [ */", "<<E\n[\nE\n",
		strings.Repeat("[", maxNesting-1), strings.Repeat("[", maxNesting), strings.Repeat("[", maxNesting-1) + "\"x\"",
		strings.Repeat("[", maxNesting+1), strings.Repeat("-", maxOperators+1), strings.Repeat("]", 9) + strings.Repeat("[", maxNesting+1),
		"a = \"\r" + strings.Repeat("[", maxNesting+1) + "\"", "'" + strings.Repeat("[", maxNesting+1) + "'",
		"\"]]\x00\xff\"" + strings.Repeat("[", maxNesting+1), "a = \"\\\n" + strings.Repeat("[", maxNesting+1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if !shallow(src) {
			return
		}
		tokens, _ := hclsyntax.LexConfig(src, "a.hcl", hcl.InitialPos)
		if at, deep := tooDeep(tokens); deep {
			t.Errorf("taken for shallow, but it nests too deeply at %v", at)
		}
		if _, hidden := hideTemplates(src, tokens); len(hidden) > 0 {
			t.Errorf("taken for plain, but it holds templates at %v", hidden)
		}
	})
}
