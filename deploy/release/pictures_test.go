package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestReadmeIsWhole: the README in an archive shows its pictures, and its links lead to files that
// are there.
func TestReadmeIsWhole(t *testing.T) {
	r := &release{root: filepath.Join("..", "..")}
	files, err := r.commonFiles()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range files {
		have[f.name] = true
	}
	text, err := os.ReadFile(filepath.Join(r.root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`\]\((docs/[^)#]+\.(?:svg|png|md))`).FindAllStringSubmatch(string(text), -1)
	if len(links) == 0 {
		t.Fatal("the README has no links into docs/")
	}
	for _, link := range links {
		if !have[link[1]] {
			t.Errorf("the README needs %s, which is not in the archive", link[1])
		}
	}
}
