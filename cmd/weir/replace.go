package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// maxLinks bounds how many symbolic links are followed, as the system does.
const maxLinks = 40

// replaceFile lets fill write a file that only its owner may read, and moves it to path once it is
// on disk. Where path is a symbolic link, its target is replaced. Where it is a pipe, a device or
// another thing that holds no file, it stays, and gets what fill has written.
func replaceFile(path string, fill func(*os.File) error) error {
	resolved, err := followLinks(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil {
		// A file without a name, as standard output may be one, can't be replaced either.
		named, err := os.Stat(resolved)
		if err != nil || !info.Mode().IsRegular() || !os.SameFile(info, named) {
			return fillInto(path, fill)
		}
	}
	dir := directory(resolved)
	file, err := os.CreateTemp(dir, "."+filepath.Base(resolved)+".*") // with mode 0600
	if err != nil {
		return err
	}
	err = errors.Join(fill(file), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), resolved)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fillInto writes what fill has written, once it is complete, into what is at path.
func fillInto(path string, fill func(*os.File) error) error {
	file, err := os.CreateTemp("", ".weir.*")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil { // it lives as long as it is open
		return err
	}
	if err := fill(file); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	into, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(into, file)
	return errors.Join(err, into.Close())
}

// followLinks is where a file is, or would be made. It cleans no path: what .. means behind a link,
// only the system knows.
func followLinks(path string) (string, error) {
	for range maxLinks {
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // it is no link, or nothing is there
		}
		if !filepath.IsAbs(link) {
			dir, _ := filepath.Split(path)
			link = dir + link
		}
		path = link
	}
	return "", fmt.Errorf("%s: too many symbolic links: give the file itself", path)
}

// directory is what a path's last element is in, not cleaned either.
func directory(path string) string {
	if dir, _ := filepath.Split(path); dir != "" {
		return dir
	}
	return "."
}

// beside is where a command that writes a file to path says the rest: on standard error where path
// is standard output.
func beside(cmd *cobra.Command, path string) io.Writer {
	out, errOut := os.Stdout.Stat()
	info, err := os.Stat(path)
	if errOut == nil && err == nil && os.SameFile(out, info) {
		return cmd.ErrOrStderr()
	}
	return cmd.OutOrStdout()
}
