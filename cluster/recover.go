package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/handshake"
)

// Recovery makes a stopped server, whose cluster has lost its quorum for good, the only server of
// its cluster. It works on the data directory alone.
type Recovery struct {
	// Servers is the newest Raft configuration that this server has, itself included.
	Servers []Peer
	// LastIndex and LastTerm are the end of its log. The last entries may never have been
	// committed; recovery commits them.
	LastIndex, LastTerm uint64

	data    *DataDir
	stores  *stores
	address raft.ServerAddress // its own, as the others knew it
	log     hclog.Logger
}

// OpenServerData opens the data directory of a stopped server. Unlike OpenDataDir, it never makes
// one.
func OpenServerData(path, name string) (*DataDir, error) {
	if _, err := os.Stat(filepath.Join(path, identityFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data_dir %q holds no node: there is nothing to recover", path)
	}
	return OpenDataDir(path, name)
}

// OpenRecovery reads the server's data and applies all of its log to state, which must be new. It
// changes nothing on disk.
func OpenRecovery(data *DataDir, state raft.FSM, log hclog.Logger) (*Recovery, error) {
	if !data.state().HasRaft {
		return nil, fmt.Errorf("data_dir %q holds no Raft log: this node was not a server, or never started", data.Path())
	}
	s, err := openStores(data, log, nil)
	if err != nil {
		return nil, err
	}
	r := &Recovery{data: data, stores: s, log: log}
	if err := trapped(func() error { return r.read(state) }); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return r, nil
}

// Close releases the files, whether or not anything was recovered.
func (r *Recovery) Close() error { return r.stores.close() }

func (r *Recovery) read(state raft.FSM) error {
	has, err := r.stores.hasState()
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("the Raft log in %q is empty: this server has been part of no cluster yet", r.data.Path())
	}
	// This restores state from the newest snapshot, as a start of the server would.
	configuration, err := raft.GetConfiguration(r.config(), state, r.stores.log, r.stores.stable, r.stores.snapshots, r.transport())
	if err != nil {
		return damaged(r.data, "in "+r.data.Path(), err)
	}
	if err := r.replay(state); err != nil {
		return damaged(r.data, "in "+r.data.Path(), err)
	}
	for _, s := range configuration.Servers {
		p := Peer{ID: string(s.ID), Name: handshake.NameOf(string(s.ID)), Address: string(s.Address), Voter: s.Suffrage == raft.Voter}
		r.Servers = append(r.Servers, p)
		if p.ID == r.data.ServerID() {
			r.address = s.Address
		}
	}
	if r.address == "" {
		return fmt.Errorf("server %s is not in the Raft configuration that it knows: it was removed, or has not been added yet; recover another server",
			r.data.Name())
	}
	return nil
}

// replay applies the entries after the newest snapshot.
func (r *Recovery) replay(state raft.FSM) error {
	list, err := r.stores.snapshots.List()
	if err != nil {
		return err
	}
	if len(list) > 0 {
		r.LastIndex, r.LastTerm = list[0].Index, list[0].Term
	}
	last, err := r.stores.log.LastIndex()
	if err != nil {
		return err
	}
	for index := r.LastIndex + 1; index <= last; index++ {
		var entry raft.Log
		if err := r.stores.log.GetLog(index, &entry); err != nil {
			return fmt.Errorf("entry %d of %d: %w", index, last, err)
		}
		if entry.Type == raft.LogCommand {
			state.Apply(&entry)
		}
		r.LastIndex, r.LastTerm = entry.Index, entry.Term
	}
	return nil
}

// Run makes this server the only one. The log may be an older copy, so the caller has waited until
// no forgotten session can be alive; the server need not wait again when it starts. state must be
// new. After a failure, Run can be repeated.
func (r *Recovery) Run(state raft.FSM) error {
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(r.data.ServerID()), Address: r.address}}}
	err := trapped(func() error {
		return raft.RecoverCluster(r.config(), state, r.stores.log, r.stores.stable, r.stores.snapshots, r.transport(), alone)
	})
	if err != nil {
		return fmt.Errorf("the Raft configuration can't be rewritten: %w", err)
	}
	if err := forget(r.data); err != nil {
		return err
	}
	return r.data.recordPlace()
}

func (r *Recovery) config() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(r.data.ServerID())
	conf.NoLegacyTelemetry = true
	conf.Logger = r.log
	return conf
}

// transport returns a transport for Raft's checks, which do not use it.
func (r *Recovery) transport() raft.Transport {
	_, t := raft.NewInmemTransport(raft.ServerAddress(r.data.ServerID()))
	return t
}
