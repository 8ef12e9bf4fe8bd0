package gossip

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	// forgetAfter is how long a dead or departed node is remembered. Consul's reconnect timeout is
	// the same.
	forgetAfter = 72 * time.Hour
	maxMembers  = 4096
)

// members holds this node's knowledge of the others. memberlist alone is not enough: it forgets the
// dead after half a minute, and reports neither suspects nor why a node has gone.
type members struct {
	self         string                        // never a suspect to itself
	suspectAfter func(alive int) time.Duration // without an answer to a probe

	// roster is the last one made; nil once it no longer holds. Reading it takes no lock.
	roster atomic.Pointer[roster]

	mu      sync.Mutex
	sorted  []*memberEntry      // by name
	alive   int                 // of them, those that are not departed
	changed map[string]struct{} // names that takeChanged will return
	kick    chan struct{}       // of capacity 1
}

// roster is the members at one time, immutable, so that everybody can share it. It holds until a
// member changes, or until a member that does not answer becomes a suspect.
type roster struct {
	all   []Member  // by name
	until time.Time // when the first of them becomes a suspect; zero: none will
	// leader is the member that claims to lead in the highest term; zero without one.
	leader Member
}

type memberEntry struct {
	Member
	leaving  bool // it has announced that it leaves
	departed bool // gossip counts it as dead or gone
	pinned   bool // detached here, before its metadata says so
	heard    time.Time
}

func newMembers(self string, suspectAfter func(int) time.Duration) *members {
	return &members{
		self:         self,
		suspectAfter: suspectAfter,
		changed:      make(map[string]struct{}),
		kick:         make(chan struct{}, 1),
	}
}

// find returns a member's entry, or nil and the entry's place. Needs the lock.
func (ms *members) find(name string) (e *memberEntry, at int) {
	at, ok := slices.BinarySearchFunc(ms.sorted, name, func(e *memberEntry, name string) int { return strings.Compare(e.Name, name) })
	if ok {
		e = ms.sorted[at]
	}
	return e, at
}

// here records a live node. joined says that gossip did not count it as live before.
func (ms *members) here(name, gossipAddr string, meta *clusterpb.Meta, joined bool, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e, _ := ms.find(name)
	if e == nil {
		ms.makeRoom(now)
		_, at := ms.find(name)
		e = &memberEntry{Member: Member{Name: name, Since: now}}
		ms.sorted = slices.Insert(ms.sorted, at, e)
		ms.alive++
	}
	if e.departed || joined {
		if e.departed {
			ms.alive++
		}
		e.departed, e.leaving, e.pinned = false, false, false
		e.Since = now
	}
	given := e.SessionLeft
	e.describe(meta)
	if e.leaving { // an older message may arrive after the goodbye
		e.SessionLeft = max(e.SessionLeft, given)
	}
	e.GossipAddr, e.heard = gossipAddr, now
	e.leaving = e.leaving || meta.GetLeaving()
	ms.note(name)
}

// gone records that gossip counts a node as dead or departed.
func (ms *members) gone(name string, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e, _ := ms.find(name); e != nil && !e.departed {
		e.departed, e.Since = true, now
		ms.alive--
		ms.note(name)
	}
}

// goodbye records a node's announcement that it leaves.
func (ms *members) goodbye(name string, meta *clusterpb.Meta) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e, _ := ms.find(name)
	said := Member{}
	said.describe(meta)
	if e == nil || said.Identity != e.Identity {
		return
	}
	e.leaving, e.SessionLeft = true, meta.GetSessionLeft()
	e.Detached = e.Detached || meta.GetDetached()
	ms.note(name)
}

// heard records that a node has answered a probe.
func (ms *members) heard(name string, now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	e, _ := ms.find(name)
	if e == nil {
		return
	}
	e.heard = now
	if r := ms.roster.Load(); r != nil && r.isSuspect(name) {
		ms.roster.Store(nil)
	}
}

// detach keeps a server out of the Raft configuration until its process starts again.
func (ms *members) detach(serverID string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e, _ := ms.find(handshake.NameOf(serverID)); e != nil && e.ServerID() == serverID {
		e.pinned = true
		ms.roster.Store(nil)
	}
}

// reattach undoes detach, for a server whose removal has failed: it is still in the Raft
// configuration, which must follow its address.
func (ms *members) reattach(serverID string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if e, _ := ms.find(handshake.NameOf(serverID)); e != nil && e.ServerID() == serverID && e.pinned {
		e.pinned = false
		ms.note(e.Name)
	}
}

// keepCluster forgets the members of other clusters.
func (ms *members) keepCluster(cluster string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.forget(func(e *memberEntry) bool { return e.Cluster != "" && e.Cluster != cluster })
}

// forget removes some members. Needs the lock.
func (ms *members) forget(which func(*memberEntry) bool) {
	ms.sorted = slices.DeleteFunc(ms.sorted, func(e *memberEntry) bool {
		if !which(e) {
			return false
		}
		if !e.departed {
			ms.alive--
		}
		ms.note(e.Name)
		return true
	})
}

// look returns the members as they are now.
func (ms *members) look(now time.Time) *roster {
	if r := ms.roster.Load(); r.holds(now) {
		return r
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	r := ms.roster.Load()
	if !r.holds(now) { // nobody else has made it meanwhile
		r = ms.makeRoster(now)
		ms.roster.Store(r)
	}
	return r
}

// makeRoster needs the lock.
func (ms *members) makeRoster(now time.Time) *roster {
	patience := ms.suspectAfter(ms.alive)
	r := &roster{all: make([]Member, len(ms.sorted))}
	for i, e := range ms.sorted {
		m := e.view(now, patience)
		if m.Name == ms.self && m.Health == HealthSuspect {
			m.Health = HealthAlive
		}
		if m.Health == HealthAlive && m.Name != ms.self && patience > 0 {
			if at := e.heard.Add(patience); r.until.IsZero() || at.Before(r.until) {
				r.until = at
			}
		}
		if m.IsServer() && m.Alive() && m.LeadsTerm > r.leader.LeadsTerm {
			r.leader = m
		}
		r.all[i] = m
	}
	return r
}

func (r *roster) holds(now time.Time) bool {
	return r != nil && (r.until.IsZero() || !now.After(r.until))
}

// get returns one member, by binary search.
func (r *roster) get(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(r.all, name, func(m Member, name string) int { return strings.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return r.all[i], true
}

func (r *roster) isSuspect(name string) bool {
	m, _ := r.get(name)
	return m.Health == HealthSuspect
}

// list returns all members, by name. The slice is shared: callers must not change it.
func (ms *members) list(now time.Time) []Member { return ms.look(now).all }

// get returns one member.
func (ms *members) get(name string, now time.Time) (Member, bool) { return ms.look(now).get(name) }

// takeChanged returns, sorted, the names that have changed since it was last called.
func (ms *members) takeChanged() []string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	names := slices.Sorted(maps.Keys(ms.changed))
	clear(ms.changed)
	return names
}

// changes returns the members that have changed since it was last called, and all of them.
func (ms *members) changes(now time.Time) (changed, all []Member) {
	names := ms.takeChanged()
	all = ms.list(now)
	for _, m := range all {
		if _, has := slices.BinarySearch(names, m.Name); has {
			changed = append(changed, m)
		}
	}
	return changed, all
}

// note records that a member has come, changed or gone. Needs the lock.
func (ms *members) note(name string) {
	ms.roster.Store(nil)
	ms.changed[name] = struct{}{}
	signal(ms.kick)
}

// makeRoom forgets members that departed long ago and, if there are still too many, the one that
// departed first. Needs the lock.
func (ms *members) makeRoom(now time.Time) {
	ms.forget(func(e *memberEntry) bool { return e.departed && now.Sub(e.Since) > forgetAfter })
	if len(ms.sorted) < maxMembers {
		return
	}
	var oldest *memberEntry
	for _, e := range ms.sorted {
		if e.departed && (oldest == nil || e.Since.Before(oldest.Since)) {
			oldest = e
		}
	}
	ms.forget(func(e *memberEntry) bool { return e == oldest })
}

func (e *memberEntry) view(now time.Time, patience time.Duration) Member {
	m := e.Member
	m.Detached = m.Detached || e.pinned || e.leaving
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
