package cluster

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

const (
	// forgetAfter is how long a dead or departed node is remembered. Consul's reconnect timeout is
	// the same.
	forgetAfter = 72 * time.Hour
	maxMembers  = 4096
)

// members is what this node knows of the others: memberlist forgets the dead after half a minute
// and does not tell suspects or reasons.
type members struct {
	self         string                        // never a suspect to itself
	suspectAfter func(alive int) time.Duration // without an answer to a probe

	mu      sync.Mutex
	byName  map[string]*memberEntry
	sorted  []*memberEntry // the same by name, and alive those of them that are not gone; nil: to be made anew
	alive   int
	changed map[string]struct{} // names to be told about
	kick    chan struct{}       // of capacity 1
}

type memberEntry struct {
	Member
	leaving  bool // it has said goodbye
	departed bool // gossip says that it is gone
	pinned   bool // detached here, before its metadata says so
	heard    time.Time
}

func newMembers(self string, suspectAfter func(int) time.Duration) *members {
	return &members{
		self:         self,
		suspectAfter: suspectAfter,
		byName:       make(map[string]*memberEntry),
		changed:      make(map[string]struct{}),
		kick:         make(chan struct{}, 1),
	}
}

// here notes a live node. joined says that gossip did not count it as live before.
func (ms *members) here(name, gossipAddr string, meta *clusterpb.Meta, joined bool, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e := ms.byName[name]
	if e == nil {
		ms.makeRoom(now)
		e = &memberEntry{Member: Member{Name: name, Since: now}}
		ms.byName[name] = e
	}
	if e.departed || joined {
		e.departed, e.leaving, e.pinned = false, false, false
		e.Since = now
	}
	given := e.SessionLeft
	e.describe(meta)
	if e.leaving { // an older message may be slower than the goodbye
		e.SessionLeft = max(e.SessionLeft, given)
	}
	e.GossipAddr, e.heard = gossipAddr, now
	e.leaving = e.leaving || meta.GetLeaving()
	ms.tell(name)
}

// gone notes that gossip takes a node for dead or departed.
func (ms *members) gone(name string, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e := ms.byName[name]; e != nil && !e.departed {
		e.departed, e.Since = true, now
		ms.tell(name)
	}
}

// goodbye notes a node's own announcement that it leaves.
func (ms *members) goodbye(name string, meta *clusterpb.Meta) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e := ms.byName[name]
	if e == nil {
		return
	}
	told := Member{}
	told.describe(meta)
	if told.Identity != e.Identity {
		return
	}
	e.leaving, e.SessionLeft = true, meta.GetSessionLeft()
	e.detached = e.detached || meta.GetDetached()
	ms.tell(name)
}

// heard notes that a node has answered a probe.
func (ms *members) heard(name string, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e := ms.byName[name]; e != nil {
		e.heard = now
	}
}

// detach keeps a server out of the Raft configuration until its process starts again.
func (ms *members) detach(serverID string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e := ms.byName[NameOf(serverID)]; e != nil && e.ServerID() == serverID {
		e.pinned = true
	}
}

// reattach undoes detach: the server stays in the Raft configuration, so its address must be
// followed.
func (ms *members) reattach(serverID string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e := ms.byName[NameOf(serverID)]; e != nil && e.ServerID() == serverID && e.pinned {
		e.pinned = false
		ms.tell(e.Name)
	}
}

// keepCluster forgets the members of other clusters.
func (ms *members) keepCluster(cluster string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for name, e := range ms.byName {
		if e.Cluster != "" && e.Cluster != cluster {
			delete(ms.byName, name)
			ms.tell(name)
		}
	}
}

// list returns all members, by name.
func (ms *members) list(now time.Time) []Member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.index()
	patience := ms.suspectAfter(ms.alive)
	all := make([]Member, len(ms.sorted))
	for i, e := range ms.sorted {
		all[i] = ms.view(e, now, patience)
	}
	return all
}

// index sorts the members where they have changed since it was last called. Needs the lock.
func (ms *members) index() {
	if ms.sorted != nil {
		return
	}
	ms.sorted, ms.alive = make([]*memberEntry, 0, len(ms.byName)), 0
	for _, e := range ms.byName {
		ms.sorted = append(ms.sorted, e)
		if !e.departed {
			ms.alive++
		}
	}
	slices.SortFunc(ms.sorted, func(a, b *memberEntry) int { return strings.Compare(a.Name, b.Name) })
}

// view is one member as this node sees it: never itself as a suspect. Needs the lock.
func (ms *members) view(e *memberEntry, now time.Time, patience time.Duration) Member {
	m := e.view(now, patience)
	if m.Name == ms.self && m.Health == HealthSuspect {
		m.Health = HealthAlive
	}
	return m
}

// get returns one member, at a cost that does not grow with their number.
func (ms *members) get(name string, now time.Time) (Member, bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e := ms.byName[name]
	if e == nil {
		return Member{}, false
	}
	ms.index()
	return ms.view(e, now, ms.suspectAfter(ms.alive)), true
}

// takeChanged returns the names that have changed since it was last called.
func (ms *members) takeChanged() []string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	names := make([]string, 0, len(ms.changed))
	for name := range ms.changed {
		names = append(names, name)
	}
	clear(ms.changed)
	slices.Sort(names)
	return names
}

// tell notes that a member has come, changed or gone. Needs the lock.
func (ms *members) tell(name string) {
	ms.sorted = nil
	ms.changed[name] = struct{}{}
	select {
	case ms.kick <- struct{}{}:
	default:
	}
}

// makeRoom forgets who has been gone for long, and the longest gone where there are too many.
func (ms *members) makeRoom(now time.Time) {
	var oldest *memberEntry
	for name, e := range ms.byName {
		if !e.departed {
			continue
		}
		if now.Sub(e.Since) > forgetAfter {
			delete(ms.byName, name)
		} else if oldest == nil || e.Since.Before(oldest.Since) {
			oldest = e
		}
	}
	if len(ms.byName) >= maxMembers && oldest != nil {
		delete(ms.byName, oldest.Name)
	}
}

func (e *memberEntry) view(now time.Time, patience time.Duration) Member {
	m := e.Member
	m.detached = m.detached || e.pinned || e.leaving
	switch {
	case e.departed && e.leaving:
		m.Health = HealthLeft
	case e.departed:
		m.Health = HealthDead
	case patience > 0 && now.Sub(e.heard) > patience:
		m.Health = HealthSuspect
	default:
		m.Health = HealthAlive
	}
	return m
}
