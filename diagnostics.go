package weir

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
)

// Settings implements [server.Diagnostics].
func (v view) Settings() []api.Setting {
	var out []api.Setting
	for _, s := range config.Settings(v.cfg.Load()) {
		out = append(out, api.Setting{Path: s.Path, Value: s.Value, At: s.At})
	}
	return out
}

// RecentLog implements [server.Diagnostics].
func (v view) RecentLog(n int) []string {
	if v.source.Recent == nil {
		return nil
	}
	return v.source.Recent(n)
}

// System implements [server.Diagnostics].
func (v view) System() api.System {
	s := api.System{
		Node: v.name(), Version: v.source.Version, Commit: v.source.Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Kernel: kernel(), CPUs: runtime.GOMAXPROCS(0), PID: os.Getpid(), Started: v.started.UTC().Truncate(time.Second), Now: time.Now().UTC(),
		OpenFiles: openFiles(),
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		s.MaxFiles = files.Cur
	}
	var fs unix.Statfs_t
	if path := v.data.Path(); path != "" && unix.Statfs(path, &fs) == nil {
		s.DataFree, s.DataTotal = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	}
	return s
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// openFiles counts the process's descriptors, if the system lists them.
func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list) - 1 // the one that reads the list
}
