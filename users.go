package weir

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/weirproxy/weir/config"
)

// usersEvery is the interval at which the users file is checked. A change takes effect at the
// second check, because programs write such a file in place, and half a file names half of the
// users.
const usersEvery = time.Second

// stamp identifies a state of a file, as far as that is visible without reading it. The zero stamp
// is that of a file that can't be examined.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

// settled detects that a file has changed and is no longer being written.
type settled struct {
	path      string
	last, now stamp
}

// look reports whether the file is to be read again.
func (s *settled) look(path string, now stamp) bool {
	if path != s.path { // a reload has just read this file, but perhaps before a change
		*s = settled{path: path, now: now}
		return false
	}
	before := s.now
	s.now = now
	if now == s.last || now != before {
		return false
	}
	s.last = now
	return true
}

// watchUsers gives the proxy the users file whenever it changes. A broken file changes nothing.
func (n *Node) watchUsers(ctx context.Context) {
	ticker := time.NewTicker(usersEvery)
	defer ticker.Stop()
	var file settled
	for {
		if path := n.usersFile(); file.look(path, stampOf(path)) {
			n.readUsers(path)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) usersFile() string {
	return n.cfg.Load().Proxy.UsersFile
}

// readUsers adopts the present content of the file.
func (n *Node) readUsers(path string) {
	n.applying.Lock()
	defer n.applying.Unlock()
	users, problems := config.ReadUsers(path)
	if len(problems) > 0 {
		n.log.Error("the users file has changed and can't be used: the former users go on", "problem", problems[0].String(), "problems", len(problems))
		return
	}
	cfg := *n.cfg.Load()
	if cfg.Proxy.UsersFile != path || slices.Equal(cfg.Proxy.Users, users) {
		return
	}
	cfg.Proxy.Users = users
	if err := n.proxy.SetPolicy(policy(&cfg)); err != nil {
		n.log.Error("the users file has changed and can't be used: the former users go on", "problem", err)
		return
	}
	n.cfg.Store(&cfg)
	n.log.Info("the users file has changed", "users", len(users))
}
