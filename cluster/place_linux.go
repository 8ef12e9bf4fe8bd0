package cluster

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID names the machine's present boot.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw)), err
}

func identify(path string) (fileID, error) {
	st, err := statx(path)
	if err != nil {
		return fileID{}, err
	}
	id := fileID{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino, Changed: nanoseconds(st.Ctime)}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = nanoseconds(st.Btime)
	}
	return id, nil
}

// undisturbed reports whether the last change of a file or directory was a change of its content.
// Renaming a directory, or restoring a file's times after a copy, makes the inode's change time the
// later one.
func undisturbed(path string) (bool, error) {
	st, err := statx(path)
	if err != nil {
		return false, err
	}
	return st.Ctime == st.Mtime, nil
}

func statx(path string) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err != nil {
		return st, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st, nil
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
