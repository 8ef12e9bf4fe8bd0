package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	placeFile   = "place.json"
	witnessFile = "witness"
	maxPlace    = 4 << 10
)

// place is the evidence that a data directory is the original, and not a copy that was put back. It
// is recorded once the server is sure of its past, and compared at the next start.
//
// A copy has other files (Log, Witness), or the witness was overwritten, which changes its time. A
// directory that was renamed, or overwritten with its times restored, has an inode change later
// than its last change of content (see undisturbed). A machine that was restored as a whole has
// booted since. A file system that is rolled back under a running machine leaves no such evidence.
type place struct {
	Boot    string `json:"boot"`    // of the machine
	Log     fileID `json:"log"`     // of the Raft log; it changes all the time, so Changed is not recorded
	Witness fileID `json:"witness"` // of a file that nobody writes to
}

// fileID tells one file from another, and from its copy.
type fileID struct {
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Born    int64  `json:"born,omitempty"`    // in nanoseconds; 0 where the file system does not know
	Changed int64  `json:"changed,omitempty"` // the inode's last change, which no program can set
}

// sameAs returns nil if nothing was put back between the two records, or else the difference.
func (before place) sameAs(now place) error {
	switch {
	case before.Boot == "" || now.Boot == "":
		return errors.New("where the data directory lay before is not known")
	case before.Boot != now.Boot:
		return errors.New("the machine has booted since")
	case before.Log != now.Log:
		return errors.New("the Raft log is another file than before")
	case before.Witness != now.Witness:
		return errors.New("files of the data directory were replaced")
	}
	return nil
}

// checkPlace returns nil if the directory is certainly the one this server last wrote to, or else
// the reason for doubt.
func (d *DataDir) checkPlace() error {
	raw, err := readBounded(filepath.Join(d.path, placeFile), maxPlace)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("where the data directory lay before was not recorded")
	}
	if err != nil {
		return fmt.Errorf("where the data directory lay before can't be read: %w", err)
	}
	var before place
	if err := json.Unmarshal(raw, &before); err != nil {
		return fmt.Errorf("where the data directory lay before can't be read: %w", err)
	}
	now, err := d.findPlace()
	if err != nil {
		return err
	}
	if err := before.sameAs(now); err != nil {
		return err
	}
	for _, path := range []string{d.path, filepath.Join(d.path, raftDirectory), filepath.Join(d.path, raftDirectory, raftDBFile)} {
		still, err := undisturbed(path)
		if err != nil {
			return fmt.Errorf("%s can't be examined: %w", path, err)
		}
		if !still {
			return fmt.Errorf("%s was moved or written over, or its owner, mode or times were changed", path)
		}
	}
	return nil
}

// recordPlace records the present place, for the next comparison.
func (d *DataDir) recordPlace() error {
	if d.path == "" {
		return nil
	}
	nonce := make([]byte, handshake.IdentityBytes)
	_, _ = rand.Read(nonce) // never fails
	if err := ReplaceFile(d.witnessPath(), []byte(hex.EncodeToString(nonce)+"\n")); err != nil {
		return fmt.Errorf("where the data directory lies can't be recorded: %w", err)
	}
	now, err := d.findPlace()
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return fmt.Errorf("where the data directory lies can't be recorded: %w", err)
	}
	if err := ReplaceFile(filepath.Join(d.path, placeFile), append(raw, '\n')); err != nil {
		return fmt.Errorf("where the data directory lies can't be recorded: %w", err)
	}
	return nil
}

func (d *DataDir) findPlace() (place, error) {
	boot, err := bootID()
	if err != nil {
		return place{}, fmt.Errorf("which boot of the machine this is can't be read: %w", err)
	}
	log, err := identify(filepath.Join(d.path, raftDirectory, raftDBFile))
	if err != nil {
		return place{}, fmt.Errorf("the Raft log can't be examined: %w", err)
	}
	witness, err := identify(d.witnessPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return place{}, fmt.Errorf("the data directory can't be examined: %w", err)
	}
	log.Changed = 0
	return place{Boot: boot, Log: log, Witness: witness}, nil
}

func (d *DataDir) witnessPath() string { return filepath.Join(d.path, raftDirectory, witnessFile) }
