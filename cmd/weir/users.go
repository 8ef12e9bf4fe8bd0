package main

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/weirproxy/weir/config"
)

// usersEvery is how often the users file is looked at. What has changed counts at the second look:
// programs write such a file in place, and half of it may name half of the users.
const usersEvery = time.Second

// stamp tells one state of a file from another, as far as that can be seen without reading it. The
// zero stamp is that of a file that can't be looked at.
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

// settled finds out that a file has changed and is not being written any more.
type settled struct {
	path      string
	last, now stamp
}

// look reports whether the file is to be read again.
func (s *settled) look(path string, now stamp) bool {
	if path != s.path { // somebody has just read it, but maybe before it changed
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

// watchUsers gives the proxy the users file anew whenever it changes. One that is broken changes
// nothing.
func (a *agent) watchUsers(ctx context.Context) {
	ticker := time.NewTicker(usersEvery)
	defer ticker.Stop()
	var file settled
	for {
		if path := a.usersFile(); file.look(path, stampOf(path)) {
			a.readUsers(path)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *agent) usersFile() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Proxy.UsersFile
}

// readUsers takes over what the file says now.
func (a *agent) readUsers(path string) {
	a.applying.Lock()
	defer a.applying.Unlock()
	users, problems := config.ReadUsers(path)
	if len(problems) > 0 {
		a.log.Error("the users file has changed and can't be used: the former users go on", "problem", problems[0].String(), "problems", len(problems))
		return
	}
	a.mu.Lock()
	cfg := *a.cfg
	a.mu.Unlock()
	if cfg.Proxy.UsersFile != path || slices.Equal(cfg.Proxy.Users, users) {
		return
	}
	cfg.Proxy.Users = users
	if err := a.proxy.SetPolicy(policy(&cfg)); err != nil {
		a.log.Error("the users file has changed and can't be used: the former users go on", "problem", err)
		return
	}
	a.mu.Lock()
	a.cfg = &cfg
	a.mu.Unlock()
	a.log.Info("the users file has changed", "users", len(users))
}
