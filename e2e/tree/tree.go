// Package tree makes the go command run a test again whenever a file of the module has changed.
//
// It keeps the result of a test for as long as the packages that the test imports, and the files
// that it reads, stay the same. What a program reads that the test starts, it does not know: a test
// that builds weir, or lists the module's packages, would pass by what weir was before.
package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// passedBy is what is not the module's, or is made from it.
var passedBy = []string{".git", "bin", "data", "node_modules"}

// Read lists all directories below root, which has go.mod. The go command notes that, with the size
// and the time of each file in them, if a test does it: not TestMain before it runs the tests.
func Read(root string) error {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return err
	}
	dirs := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case path != root && slices.Contains(passedBy, d.Name()):
			return fs.SkipDir
		}
		dirs++
		return nil
	})
	if err == nil && dirs < 2 {
		err = errors.New(root + " has no packages")
	}
	return err
}
