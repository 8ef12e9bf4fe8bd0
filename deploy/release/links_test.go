package main

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"testing"
)

// elsewhere are the targets of links that only the repository has: what weir is tested with.
var elsewhere = map[string]bool{"e2e/testdata/node": true}

// TestDocumentsAreWhole: the documents in an archive show their pictures, and their links lead to
// files and directories that are there.
func TestDocumentsAreWhole(t *testing.T) {
	r := &release{root: filepath.Join("..", "..")}
	files, err := r.commonFiles()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range files {
		for name := f.name; name != "."; name = path.Dir(name) {
			have[name] = true
		}
	}
	relative, links := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`), 0
	for _, f := range files {
		if path.Ext(f.name) != ".md" {
			continue
		}
		for _, link := range relative.FindAllStringSubmatch(string(f.content), -1) {
			target := path.Join(path.Dir(f.name), link[1])
			if links++; !have[target] && !elsewhere[target] {
				t.Errorf("%s needs %s, which is not in the archive", f.name, target)
			}
		}
	}
	if links < 50 {
		t.Errorf("the documents have %d links", links)
	}
	for target := range elsewhere {
		if _, err := os.Stat(filepath.Join(r.root, target)); err != nil {
			t.Error(err)
		}
	}
}
