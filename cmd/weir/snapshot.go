package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
)

// snapshotTimeout bounds a snapshot's transfer: a gigabyte at some 2 MB/s.
const snapshotTimeout = 10 * time.Minute

func newSnapshotCommand(p *process) *cobra.Command {
	cmd := newGroup("snapshot", "Save, restore and inspect the cluster's state")
	cmd.Example = `  weir snapshot save weir.snap
  weir snapshot inspect weir.snap
  weir snapshot restore weir.snap`
	f := addClientFlags(p, cmd)
	cmd.AddCommand(newSnapshotSaveCommand(f), newSnapshotRestoreCommand(f), newSnapshotInspectCommand(f))
	return cmd
}

func newSnapshotSaveCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Save the cluster's state to a file",
		Long: `Save the cluster's limits, sessions and grants to FILE, from any node. An existing FILE is replaced only once the whole
snapshot has arrived and its checksum is verified; if anything fails, it stays as it was. Only the owner may read it.

Where FILE is a symbolic link, its target is replaced. A pipe or a device gets the verified snapshot; where that is
standard output, what the command has to say goes to standard error.`,
		Example: `  weir snapshot save /var/backups/weir.snap
  weir snapshot save /dev/stdout | gzip > weir.snap.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(cmd)
			if err != nil {
				return err
			}
			defer c.CloseIdle()
			ctx, cancel := context.WithTimeout(cmd.Context(), snapshotTimeout)
			defer cancel()
			var s *fsm.Summary
			out := beside(cmd, args[0])
			err = replaceFile(args[0], func(file *os.File) (err error) {
				if _, err = c.SaveSnapshot(ctx, file); err != nil {
					return explain(c, err)
				}
				s, err = readSummary(file)
				return err
			})
			if err != nil {
				return err
			}
			if f.json {
				return writeJSON(out, describeSnapshot(s))
			}
			_, err = fmt.Fprintf(out, "Saved to %s: %s up to index %d, %d bytes.\n", printable(args[0]), count(len(s.Limits), "limit"), s.Index, s.Bytes)
			return err
		},
	}
}

func newSnapshotInspectCommand(f *clientFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect FILE",
		Short:   "Verify a snapshot and show what it holds, without a cluster",
		Example: `  weir snapshot inspect /var/backups/weir.snap`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, s, err := openSnapshot(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			if f.json {
				return writeJSON(cmd.OutOrStdout(), describeSnapshot(s))
			}
			return showSnapshot(cmd.OutOrStdout(), describeSnapshot(s))
		},
	}
	return cmd
}

// snapshotInfo is the output of inspect.
type snapshotInfo struct {
	Version   int               `json:"version"`
	Bytes     int64             `json:"bytes"`
	Index     uint64            `json:"index"`
	Term      uint64            `json:"term"` // in which grants were last changed
	ClusterID string            `json:"cluster_id"`
	TTL       api.Duration      `json:"ttl"`
	Limits    []api.Limit       `json:"limits"` // both layers
	Sessions  []snapshotSession `json:"sessions"`
}

type snapshotSession struct {
	ID    uint64 `json:"id"`
	Node  string `json:"node"`
	Names int    `json:"names"` // hosts, clients and the like of which it holds slots
	Slots int64  `json:"slots"` // of these names together
	Rates int    `json:"rates"` // of which it holds a part
}

func describeSnapshot(s *fsm.Summary) snapshotInfo {
	info := snapshotInfo{
		Version: s.Version, Bytes: s.Bytes, Index: s.Index, Term: s.GrantTerm, ClusterID: s.ClusterID, TTL: api.Duration(s.TTL),
		Limits: []api.Limit{}, Sessions: []snapshotSession{},
	}
	for i := range s.Limits {
		info.Limits = append(info.Limits, api.LimitOf(&s.Limits[i]))
	}
	for _, one := range s.Sessions {
		info.Sessions = append(info.Sessions, snapshotSession{ID: one.ID, Node: one.Node, Names: one.Keys, Slots: one.Slots, Rates: one.Rates})
	}
	return info
}

func showSnapshot(w io.Writer, s snapshotInfo) error {
	facts := table{}
	facts.add("Version", strconv.Itoa(s.Version))
	facts.add("Bytes", strconv.FormatInt(s.Bytes, 10))
	facts.add("Index", strconv.FormatUint(s.Index, 10))
	facts.add("Term", strconv.FormatUint(s.Term, 10))
	facts.add("Cluster", orDash(s.ClusterID))
	facts.add("TTL", s.TTL.String())
	facts.add("Limits", strconv.Itoa(len(s.Limits)))
	facts.add("Sessions", strconv.Itoa(len(s.Sessions)))
	if err := facts.write(w); err != nil {
		return err
	}
	if len(s.Limits) > 0 {
		fmt.Fprintln(w) // a failure shows at the next write
		if err := showLimits(w, s.Limits); err != nil {
			return err
		}
	}
	if len(s.Sessions) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	sessions := table{header: []string{"NODE", "-SESSION", "-NAMES", "-SLOTS", "-RATES"}}
	for _, one := range s.Sessions {
		sessions.add(one.Node, strconv.FormatUint(one.ID, 10), strconv.Itoa(one.Names), strconv.FormatInt(one.Slots, 10), strconv.Itoa(one.Rates))
	}
	return sessions.write(w)
}

// openSnapshot opens and verifies a snapshot, positioned at its beginning.
func openSnapshot(path string) (*os.File, *fsm.Summary, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	s, err := readSummary(file)
	if err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, s, nil
}

// readSummary reads a snapshot from the file's beginning, and rewinds the file.
func readSummary(file *os.File) (*fsm.Summary, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s, err := fsm.ReadSummary(file)
	if err != nil {
		return nil, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return s, err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
