package e2e

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// workersPage is what docs/workers.md says of clients.
type workersPage struct {
	blocks map[string]string // by name: the text of the block below <!-- recipe: NAME -->
	rows   map[string]refusalRow
}

// refusalRow is a client's row in the table of refusals, by scheme.
type refusalRow struct {
	shown map[string][]string // the code spans: what the client shows
	tries int                 // how often it asks in all
	more  bool                // or more often: each resource of a page for itself
}

var (
	recipeBlock = regexp.MustCompile("(?ms)^<!-- recipe: ([a-z -]+) -->\n```[a-z]*\n(.*?)^```$")
	refusalLine = regexp.MustCompile(`(?m)^\| ([^|]+) \| (.*) \| (.*) \| (\d+)(\+?) \|`)
	codeSpan    = regexp.MustCompile("`([^`]+)`")
)

func readWorkersPage(t *testing.T) *workersPage {
	t.Helper()
	text, err := os.ReadFile("../docs/workers.md")
	if err != nil {
		t.Fatal(err)
	}
	p := &workersPage{blocks: map[string]string{}, rows: map[string]refusalRow{}}
	for _, m := range recipeBlock.FindAllStringSubmatch(string(text), -1) {
		p.blocks[m[1]] = m[2]
	}
	if want := strings.Count(string(text), "<!-- recipe: "); want != len(p.blocks) {
		t.Fatalf("docs/workers.md has %d blocks with a name, of which %d can be read", want, len(p.blocks))
	}
	for _, m := range refusalLine.FindAllStringSubmatch(string(text), -1) {
		tries, err := strconv.Atoi(m[4])
		if err != nil {
			t.Fatal(err)
		}
		row := refusalRow{shown: map[string][]string{"http": spans(m[2]), "https": spans(m[3])}, tries: tries, more: m[5] != ""}
		for scheme, other := range map[string]string{"http": "https", "https": "http"} {
			if len(row.shown[scheme]) == 0 { // "the same", "as with https"
				row.shown[scheme] = row.shown[other]
			}
		}
		p.rows[m[1]] = row
	}
	return p
}

func (p *workersPage) row(t *testing.T, client string) refusalRow {
	t.Helper()
	row, ok := p.rows[client]
	if !ok {
		t.Fatalf("docs/workers.md has no row of %s in its table of refusals", client)
	}
	return row
}

func spans(cell string) (found []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(cell, -1) {
		found = append(found, m[1])
	}
	return found
}
