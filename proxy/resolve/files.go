package resolve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often the files are looked at for changes, at most; as often as other
	// resolvers do.
	lookEvery = 5 * time.Second
	// maxHostsFile and maxResolvConf bound what is read. Block lists have some megabytes.
	maxHostsFile  = 32 << 20
	maxResolvConf = 64 << 10
)

// The files of the system.
const (
	systemHosts      = "/etc/hosts"
	systemResolvConf = "/etc/resolv.conf"
)

// settings are what resolv.conf says, with the servers and how well they have answered.
type settings struct {
	resolvConf
	servers []*server
}

// withServers makes settings of c. A server that was known keeps its history.
func (s *settings) withServers(c resolvConf, port uint16) *settings {
	next := &settings{resolvConf: c}
	for _, addr := range c.nameservers {
		at := netip.AddrPortFrom(addr, port)
		i := slices.IndexFunc(s.servers, func(known *server) bool { return known.addr == at })
		if i >= 0 {
			next.servers = append(next.servers, s.servers[i])
			continue
		}
		next.servers = append(next.servers, &server{addr: at})
	}
	return next
}

// file is a file that is read again when it has changed.
type file struct {
	path   string
	limit  int64
	read   bool        // at least once
	last   os.FileInfo // when it was read; nil: it was not there
	failed bool        // the last time
}

// changed returns the file's text where it has changed since it was read, and reports whether it
// has. The text of a file that is not there is nil. An error is returned once, and not again before
// a success.
func (f *file) changed() (text []byte, changed bool, err error) {
	text, changed, err = f.readChanged()
	if failed := f.failed; err != nil {
		f.failed = true
		if failed {
			return nil, false, nil
		}
		return nil, false, err
	}
	f.failed = false
	return text, changed, nil
}

func (f *file) readChanged() (text []byte, changed bool, err error) {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		changed = !f.read || f.last != nil
		f.read, f.last = true, nil
		return nil, changed, nil
	case err != nil:
		return nil, false, err
	case f.last != nil && os.SameFile(info, f.last) && info.Size() == f.last.Size() && info.ModTime().Equal(f.last.ModTime()):
		return nil, false, nil
	}
	opened, err := os.Open(f.path)
	if err != nil {
		return nil, false, err
	}
	defer opened.Close()
	text, err = io.ReadAll(io.LimitReader(opened, f.limit+1))
	if err == nil && int64(len(text)) > f.limit {
		err = fmt.Errorf("%s is longer than %d bytes: shorten it", f.path, f.limit)
	}
	if err != nil {
		return nil, false, err
	}
	f.read, f.last = true, info
	return text, true, nil
}

// files follow the hosts file and resolv.conf.
type files struct {
	lookedAt   atomic.Int64 // nanoseconds since the resolver began
	hosts      atomic.Pointer[map[string]*groups]
	settings   atomic.Pointer[settings]
	looking    sync.Mutex // guards what follows
	hostsFile  file
	resolvConf file
}

// due reports whether it is time to look at the files; of all that ask at once, one is the caller
// to do so.
func (f *files) due(since time.Duration) bool {
	last := f.lookedAt.Load()
	return since-time.Duration(last) >= lookEvery && f.lookedAt.CompareAndSwap(last, int64(since))
}

// lookAtFiles reads the files that have changed. Where one can't be read, what it said before still
// holds. One that is gone says nothing, but the name servers stay the same: the file may just be
// being replaced.
func (r *Resolver) lookAtFiles() {
	f := &r.files
	f.looking.Lock()
	defer f.looking.Unlock()
	text, changed, err := f.hostsFile.changed()
	if err != nil {
		r.log.Warn("hosts file can't be read; its names stay as they were", "error", err)
	}
	if changed || f.hosts.Load() == nil {
		names := parseHosts(text).grouped(r.routed)
		f.hosts.Store(&names)
	}
	text, changed, err = f.resolvConf.changed()
	if err != nil {
		r.log.Warn("resolv.conf can't be read; the name servers stay as they were", "error", err)
	}
	old := f.settings.Load()
	if old == nil {
		old = new(settings)
	} else if text == nil {
		return
	}
	if changed || len(old.servers) == 0 {
		next := old.withServers(parseResolvConf(text), r.port)
		f.settings.Store(next)
		r.log.Debug("name servers", "servers", fmt.Sprint(next.nameservers), "timeout", next.timeout, "attempts", next.attempts)
	}
}
