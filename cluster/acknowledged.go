package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	acknowledgedFile = "acknowledged.json"
	maxAcknowledged  = 256 << 10
	// maxRemembered bounds the servers that are remembered. A server whose data directory was
	// replaced has several ids, and each counts.
	maxRemembered = 256
	// rememberEvery is the interval at which the memory is saved and spread. After a kill, at most
	// this much of it is missing.
	rememberEvery = time.Second
)

// position is an entry's place in the Raft log. Positions order as Raft orders logs: by term, then
// by index.
type position struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

func (p position) before(q position) bool {
	return p.Term < q.Term || (p.Term == q.Term && p.Index < q.Index)
}

func later(p, q position) position {
	if p.before(q) {
		return q
	}
	return p
}

// remembered holds the facts that one server knows about another: all of them were certainly on
// that server's disk.
type remembered struct {
	Acknowledged position `json:"acknowledged"`
	Voted        uint64   `json:"voted"` // the newest term in which it voted, followed or led
}

func (r remembered) merge(other remembered) remembered {
	return remembered{Acknowledged: later(r.Acknowledged, other.Acknowledged), Voted: max(r.Voted, other.Voted)}
}

// memory holds one server's knowledge of the others, which reveals a server whose disk was put back
// to an older copy. It is saved in the background, never while a commit waits. After a kill the
// newest facts are missing; gap covers them.
type memory struct {
	dir *DataDir

	mu      sync.Mutex
	servers map[raft.ServerID]remembered
	// gap bounds the facts that may be missing. A follower can't have acknowledged to this server
	// an entry that this server did not have, nor voted for it in a term that it had not reached.
	gap     remembered
	own     position // the end of this server's own log
	wait    time.Duration
	promise uint64 // see pastGuard.promise
	durable uint64 // the promise that is on the disk
	changed bool   // since it was saved
	news    bool   // since it was spread
	saving  sync.Mutex
}

// memoryContent is the content of the file.
type memoryContent struct {
	Format  int                          `json:"format"`
	Clean   bool                         `json:"clean"` // the process that wrote it then ended in an orderly way
	Own     position                     `json:"own"`
	WaitNS  int64                        `json:"wait_ns"`
	Promise uint64                       `json:"promise,omitempty"`
	Servers map[raft.ServerID]remembered `json:"servers"`
}

// openMemory reads the server's memory. end and term are its log's end and its term now. A damaged
// file is an error; the memory is then as good as it can be without the file.
func openMemory(dir *DataDir, end position, term uint64) (*memory, error) {
	m := &memory{dir: dir, servers: make(map[raft.ServerID]remembered), own: end}
	whole := remembered{Acknowledged: end, Voted: term}
	if dir.Path() == "" {
		return m, nil // without a directory, the memory ends with the process
	}
	raw, err := readBounded(filepath.Join(dir.Path(), acknowledgedFile), maxAcknowledged)
	if errors.Is(err, fs.ErrNotExist) {
		m.gap = whole
		return m, nil
	}
	var content memoryContent
	if err == nil {
		err = json.Unmarshal(raw, &content)
	}
	if err == nil && content.Format != identityFormat {
		err = fmt.Errorf("its format is %d, not %d", content.Format, identityFormat)
	}
	if err != nil {
		m.gap = whole
		return m, fmt.Errorf("what this server remembers of the others can't be read: %w", err)
	}
	if !content.Clean {
		m.gap = whole
	}
	m.own, m.wait = content.Own, max(0, time.Duration(content.WaitNS))
	m.promise, m.durable = content.Promise, content.Promise
	for id, r := range content.Servers {
		if len(m.servers) < maxRemembered {
			m.servers[id] = r
		}
	}
	m.changed = content.Clean // the file must no longer claim a clean end
	return m, nil
}

// learn adds facts about a server.
func (m *memory) learn(id raft.ServerID, r remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	had, known := m.servers[id]
	now := had.merge(r)
	if now == had || id == "" || (!known && len(m.servers) >= maxRemembered) {
		return
	}
	m.servers[id] = now
	m.changed, m.news = true, true
}

// recall returns the known facts about a server, and a bound on those that may be missing.
func (m *memory) recall(id raft.ServerID) (known, gap remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.servers[id], m.gap
}

// lastOwn is the end of the own log when it was last saved.
func (m *memory) lastOwn() position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own
}

// note records the end of the own log, and how long a session may live without contact (0:
// unknown).
func (m *memory) note(end position, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end != m.own {
		m.own, m.changed = end, true
	}
	if wait > 0 && wait != m.wait {
		m.wait, m.changed = wait, true
	}
}

func (m *memory) savedWait() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wait
}

func (m *memory) promised() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.promise
}

func (m *memory) setPromise(term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if term > m.promise {
		m.promise, m.changed = term, true
	}
}

// takeNews returns the facts learnt since the last call, or nil if there are none.
func (m *memory) takeNews() map[raft.ServerID]remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.news {
		return nil
	}
	m.news = false
	return m.copied()
}

func (m *memory) copied() map[raft.ServerID]remembered {
	all := make(map[raft.ServerID]remembered, len(m.servers))
	for id, r := range m.servers {
		all[id] = r
	}
	return all
}

// save writes the memory if it has changed. clean says that it can't change any more.
//
// It does not wait for the disk, because the Raft log needs it. After a kill the file is there all
// the same; after a machine crash, the gap covers the missing facts. A promise must be durable, so
// saving one does wait.
func (m *memory) save(clean bool) error {
	if m.dir.Path() == "" {
		return nil
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	if !m.changed && !clean {
		m.mu.Unlock()
		return nil
	}
	m.changed = false
	durable := m.promise > m.durable
	content := memoryContent{
		Format: identityFormat, Clean: clean, Own: m.own, WaitNS: int64(m.wait), Promise: m.promise, Servers: m.copied(),
	}
	m.mu.Unlock()
	raw, err := json.MarshalIndent(content, "", "  ")
	replace := replaceFileSoon
	if durable {
		replace = ReplaceFile
	}
	if err == nil {
		err = replace(filepath.Join(m.dir.Path(), acknowledgedFile), append(raw, '\n'))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.changed = true
		return fmt.Errorf("what this server remembers of the others can't be saved: %w", err)
	}
	m.durable = content.Promise
	return nil
}

// replaceFileSoon is ReplaceFile without the sync: after a machine crash, the file may be the old
// one, or damaged.
func replaceFileSoon(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// forget removes a server's memory of servers that will never run again.
func forget(dir *DataDir) error {
	err := os.Remove(filepath.Join(dir.Path(), acknowledgedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what this server remembers of the others can't be removed: %w", err)
	}
	return nil
}
