package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// runbook is docs/operations.md.
func runbook(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRunbookQuotesTheLog: what the runbook says that the log says stands in the code, word for
// word.
func TestRunbookQuotesTheLog(t *testing.T) {
	code := sources(t)
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .* \\|$").FindAllStringSubmatch(runbook(t), -1)
	if len(rows) < 20 {
		t.Fatalf("only %d lines of the log are found", len(rows))
	}
	for _, row := range rows {
		if !strings.Contains(code, row[1]) {
			t.Errorf("nothing logs %q", row[1])
		}
	}
}

// sources are all Go sources but tests, with strings that are joined over lines made one.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`"\s*\+\s*"`).ReplaceAllString(all.String(), "")
}

// TestRunbookNamesMetrics that there are.
func TestRunbookNamesMetrics(t *testing.T) {
	b, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile("`(weir_[a-z_]+)`").FindAllStringSubmatch(runbook(t), -1) {
		if !strings.Contains(string(b), "| `"+name[1]+"` |") {
			t.Errorf("there is no metric %s", name[1])
		}
	}
}

// TestRunbookIsLinked: every link into the runbook, its own and the alerts', leads to one of its headings.
func TestRunbookIsLinked(t *testing.T) {
	headings := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(runbook(t), -1) {
		headings[anchor(h[1])] = true
	}
	rules, err := os.ReadFile("../../deploy/prometheus/weir.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range regexp.MustCompile(`(?:\(|docs/operations\.md)#([a-z0-9-]+)`).FindAllStringSubmatch(runbook(t)+string(rules), -1) {
		if !headings[link[1]] {
			t.Errorf("there is no heading for #%s", link[1])
		}
	}
	alerts := regexp.MustCompile(`(?m)^\s*- alert: (\S+)`).FindAllStringSubmatch(string(rules), -1)
	if urls := strings.Count(string(rules), "runbook_url: https://github.com/weirproxy/weir/blob/main/docs/operations.md#"); urls != len(alerts) || urls < 15 {
		t.Errorf("%d alerts have %d links to the runbook", len(alerts), urls)
	}
}

// anchor is a heading as a link to it has it.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
