package server

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/limit"
)

var writeDocs = flag.Bool("write-docs", false, "write what docs/ says of the code anew, where it differs")

// document compares a file with what it should be, or writes that.
func document(t *testing.T, path string, want func(have string) string) {
	t.Helper()
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := want(string(have))
	if text == string(have) {
		return
	}
	if !*writeDocs {
		t.Fatalf("%s differs from the code; go test ./api/server -write-docs writes it anew (-file +code):\n%s", path, cmp.Diff(string(have), text))
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// withTable returns a Markdown text in which the table below a heading, which may yet be missing,
// is this one.
func withTable(t *testing.T, text, heading, table string) string {
	t.Helper()
	before, section, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	after := ""
	if i := strings.Index(section, "\n## "); i >= 0 {
		section, after = section[:i], section[i:]
	}
	var prose []string
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			prose = append(prose, line)
		}
	}
	rest := strings.TrimSpace(strings.Join(prose, ""))
	if rest != "" {
		rest = "\n" + rest + "\n"
	}
	if after == "" {
		return before + "\n" + heading + "\n\n" + table + strings.TrimSuffix(rest, "\n") + strings.Repeat("\n", min(1, len(rest)))
	}
	return before + "\n" + heading + "\n\n" + table + rest + after
}

func familyTable(families []family) string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range families {
		labels := ""
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.kind, labels, f.help)
	}
	return b.String()
}

// TestMetricsDocument: docs/metrics.md has every metric, as it is told.
func TestMetricsDocument(t *testing.T) {
	document(t, "../../docs/metrics.md", func(text string) string {
		for _, s := range []struct {
			heading  string
			families []family
		}{
			{"## Node", nodeFamilies()}, {"## Hosts", hostFamilies()}, {"## Limits", limitFamilies()}, {"## Proxy", proxyFamilies()}, {"## Names", dnsFamilies()},
			{"## Session", sessionFamilies()}, {"## Raft", raftFamilies()}, {"## Members", memberFamilies()},
		} {
			text = withTable(t, text, s.heading, familyTable(s.families))
		}
		return text
	})
}

// TestMetricsDocumentNamesScopes: docs/metrics.md names every scope and resource that metrics of
// limits have as labels.
func TestMetricsDocumentNamesScopes(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("`scope` is "))
	scopes, rest, _ := strings.Cut(string(text), "; `resource` is ")
	resources, _, found := strings.Cut(rest, ";")
	if !found {
		t.Fatal("no sentence says what scope and resource are")
	}
	for _, s := range countedScopes {
		if !strings.Contains(scopes, "`"+s.String()+"`") {
			t.Errorf("scope %s is not among %q", s, scopes)
		}
	}
	for _, r := range limit.Resources {
		if !strings.Contains(resources, "`"+r.String()+"`") {
			t.Errorf("resource %s is not among %q", r, resources)
		}
	}
}
