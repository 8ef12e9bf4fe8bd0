package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirproxy/weir/limit"
)

// shape holds the attributes and blocks that each block may contain.
type shape struct {
	config map[string]field[Config] // by path
	limit  map[string]field[draft]
	blocks map[string]bool
	paths  []string // of all attributes, in the order of the reference
}

func newShape() shape {
	s := shape{config: map[string]field[Config]{}, limit: map[string]field[draft]{}, blocks: map[string]bool{}}
	for _, f := range configFields() {
		s.config[f.Path] = f
		s.add(f.Path)
	}
	for _, f := range limitFields() {
		s.limit[f.Path] = f
		s.add(f.Path)
	}
	return s
}

func (s *shape) add(path string) {
	s.paths = append(s.paths, path)
	for b := parent(path); b != ""; b = parent(b) {
		s.blocks[b] = true
	}
}

func (s *shape) isAttribute(path string) bool { return slices.Contains(s.paths, path) }

// suggest returns the likely meaning of a wrong name in the block at path: a similar name there, or
// the same name elsewhere.
func (s *shape) suggest(path, name string) string {
	for _, p := range append(s.paths, s.blockPaths()...) {
		if base(p) == name && path != "" && parent(parent(p)) == path { // a block is missing around it
			return fmt.Sprintf("It belongs %s.", s.place(parent(p)))
		}
	}
	if near := nearest(name, s.names(path)); near != "" {
		return fmt.Sprintf("Did you mean %q?", near)
	}
	if other := join("limits.host", name); parent(path) == "limits" && (s.isAttribute(other) || s.blocks[other]) {
		return fmt.Sprintf("A %s block takes %s.", base(path), strings.Join(s.names(path), ", "))
	}
	for _, p := range append(s.paths, s.blockPaths()...) {
		if base(p) == name && parent(p) != path {
			return fmt.Sprintf("It belongs %s.", s.place(parent(p)))
		}
	}
	return fmt.Sprintf("What may stand here: %s.", strings.Join(s.names(path), ", "))
}

// names returns the attributes and blocks that the block at path may contain.
func (s *shape) names(path string) []string {
	var out []string
	for _, p := range s.paths {
		if path != "" && !strings.HasPrefix(p, path+".") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, path), "."), ".")
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// blockPaths are all blocks, in the order of the reference.
func (s *shape) blockPaths() []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range s.paths {
		if b := parent(p); b != "" && !seen[b] {
			seen[b] = true
			out = append(out, b)
		}
	}
	return out
}

// place names a block for a sentence.
func (s *shape) place(path string) string {
	if path == "" {
		return "at the top of the file, outside of blocks"
	}
	var opened []string
	for p := path; p != ""; p = parent(p) {
		opened = append([]string{s.opening(p)}, opened...)
	}
	return "in " + strings.Join(opened, " { ") + " { … }" + strings.Repeat(" }", len(opened)-1)
}

// opening returns the opening line of a block.
func (s *shape) opening(path string) string {
	if scope, err := limit.ParseScope(base(path)); err == nil && parent(path) == "limits" && !scope.Bare() {
		return scope.String() + ` "…"`
	}
	return base(path)
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

func base(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
