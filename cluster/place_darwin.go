package cluster

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bootID names the machine's present boot.
func bootID() (string, error) { return unix.Sysctl("kern.bootsessionuuid") }

func identify(path string) (fileID, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileID{
		Device: uint64(st.Dev), Inode: st.Ino, Born: st.Birthtimespec.Nano(), Changed: st.Ctimespec.Nano(),
	}, nil
}

// undisturbed reports of a file what it does on Linux. Of a directory it can't tell: how a rename
// affects its times depends on the file system. A doubt without reason only delays a start.
func undisturbed(path string) (bool, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Mode&syscall.S_IFMT == syscall.S_IFDIR || st.Ctimespec == st.Mtimespec, nil
}
