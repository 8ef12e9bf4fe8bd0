package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

const (
	profileSecondsDefault = 5
	profileSecondsMost    = 50 // what a node records at most
	eventsFor             = 1500 * time.Millisecond
	bundleLines           = 1000 // of each node's log
	bundleWidth           = 4    // nodes asked at a time
)

func newDebugCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Collect what support needs into one archive",
		Long: `Collect what is needed to analyse a node elsewhere into weir-debug-NODE-TIME.tar.gz in the current directory: status, nodes,
limits, hosts, connections, Raft peers, events and metrics; the node's configuration without secrets; the newest lines of its log;
its goroutines, heap, and a few seconds of its processor profile; with --all, the same of every node that can be reached.

The archive holds no token, key or password. It names hosts, clients and users, and only its owner may read it. missing.txt
lists whatever could not be collected.`,
		Example: `  weir debug
  weir debug --all --seconds 10`,
		Args: cobra.NoArgs,
	}
	f := addClientFlags(p, cmd)
	_ = cmd.PersistentFlags().MarkHidden("json") // there is nothing to print; fails only for a flag that isn't there.
	var all bool
	var seconds int
	var out string
	cmd.Flags().BoolVar(&all, "all", false, "from every node, not only from the one asked")
	cmd.Flags().IntVar(&seconds, "seconds", profileSecondsDefault, "the `number` of seconds that the processor profile takes; 0: none")
	cmd.Flags().StringVar(&out, "out", "", "the archive's `file`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if seconds < 0 || seconds > profileSecondsMost {
			return usagef(cmd, "--seconds is 0 to %d, not %d", profileSecondsMost, seconds)
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		return collectDebug(cmd, c, all, seconds, out)
	}
	return cmd
}

func collectDebug(cmd *cobra.Command, c *api.Client, all bool, seconds int, out string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil {
		return explain(c, err)
	}
	now := time.Now().UTC()
	b := &bundle{c: c, seconds: seconds, name: fmt.Sprintf("weir-debug-%s-%s", fileName(st.Node), now.Format("20060102T150405Z"))}
	b.add("about.txt", []byte(fmt.Sprintf("collected %s through node %s at %s\nby weir %s (%s, %s/%s)\n",
		now.Format(time.RFC3339), st.Node, c.Addr(), thisBuild().Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)))
	nodes := []string{st.Node}
	if all {
		list, err := c.Nodes(ctx)
		if err != nil {
			b.miss("the list of nodes", err)
		}
		for _, n := range list.Nodes {
			if n.Name != st.Node && n.Health != "left" {
				nodes = append(nodes, n.Name)
			}
		}
	}
	b.collect(cmd.Context(), nodes)
	if out == "" {
		out = b.name + ".tar.gz"
	}
	said := beside(cmd, out)
	if err := replaceFile(out, func(file *os.File) error { return b.write(file, now) }); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(said, "%s: %s", printable(out), count(len(b.files), "file")); err != nil {
		return err
	}
	if len(b.missing) > 0 {
		fmt.Fprintf(said, "; %d could not be had, see missing.txt in it", len(b.missing))
	}
	_, err = fmt.Fprintln(said)
	return err
}

// bundle is an archive that is being filled. Several goroutines may add parts.
type bundle struct {
	c       *api.Client
	name    string
	seconds int // of the processor's profile

	mu      sync.Mutex
	files   []bundled
	missing []string
}

type bundled struct {
	name    string
	content []byte
}

func (b *bundle) add(name string, content []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files = append(b.files, bundled{name, content})
}

func (b *bundle) miss(what string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missing = append(b.missing, fmt.Sprintf("%s: %v", what, err))
}

// part is one file: the answer to a GET within a time.
type part struct {
	file, path string
	within     time.Duration
}

// collect fetches everything: the cluster's parts once, and the others from each node.
func (b *bundle) collect(ctx context.Context, nodes []string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, p := range clusterParts() {
			b.fetch(ctx, p)
		}
		b.fetchEvents(ctx)
	})
	places := make(chan struct{}, bundleWidth)
	for _, node := range nodes {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			for _, p := range nodeParts(node, b.seconds) {
				b.fetch(ctx, p)
			}
			b.fetchLog(ctx, node)
		})
	}
	wg.Wait()
}

func clusterParts() []part {
	return []part{
		{"nodes.json", "/v1/nodes", callTimeout}, {"limits.json", "/v1/limits", callTimeout}, {"raft-peers.json", "/v1/raft/peers", callTimeout},
		{"hosts.json", "/v1/hosts?limit=1000&sort=in_use", callTimeout}, {"connections.json", "/v1/connections?node=*", callTimeout},
	}
}

func nodeParts(node string, seconds int) []part {
	dir, at := fileName(node)+"/", "node="+url.QueryEscape(node)
	parts := []part{
		{dir + "status.json", "/v1/status?" + at, callTimeout}, {dir + "system.json", "/v1/system?" + at, callTimeout},
		{dir + "config.json", "/v1/config?" + at, callTimeout},
		{dir + "metrics.txt", "/metrics?" + at, callTimeout},
		{dir + "goroutines.txt", "/debug/pprof/goroutine?debug=2&" + at, callTimeout}, {dir + "heap.pprof", "/debug/pprof/heap?" + at, callTimeout},
	}
	if seconds > 0 {
		most := callTimeout + time.Duration(seconds)*time.Second
		parts = append(parts, part{dir + "cpu.pprof", fmt.Sprintf("/debug/pprof/profile?seconds=%d&%s", seconds, at), most})
	}
	return parts
}

func (b *bundle) fetch(ctx context.Context, p part) {
	ctx, cancel := context.WithTimeout(ctx, p.within)
	defer cancel()
	var content bytes.Buffer
	if err := b.c.Fetch(ctx, p.path, &content); err != nil {
		b.miss(p.file, err)
		return
	}
	b.add(p.file, content.Bytes())
}

// fetchLog fetches the newest lines of a node's log.
func (b *bundle) fetchLog(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	file := fileName(node) + "/log.txt"
	logs, err := b.c.Logs(ctx, node, bundleLines)
	if err != nil {
		b.miss(file, err)
		return
	}
	b.add(file, []byte(strings.Join(logs.Lines, "\n")+"\n"))
}

// fetchEvents fetches the beginning of the event stream: the events that the node remembers.
func (b *bundle) fetchEvents(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, eventsFor)
	defer cancel()
	var content bytes.Buffer
	if err := b.c.Fetch(ctx, "/v1/events", &content); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		b.miss("events.txt", err)
		return
	}
	b.add("events.txt", content.Bytes())
}

// write writes the archive: one directory with the files, sorted by name.
func (b *bundle) write(w io.Writer, now time.Time) error {
	slices.Sort(b.missing)
	if len(b.missing) > 0 {
		b.add("missing.txt", []byte(strings.Join(b.missing, "\n")+"\n"))
	}
	slices.SortFunc(b.files, func(x, y bundled) int { return strings.Compare(x.name, y.name) })
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, f := range b.files {
		head := &tar.Header{Name: path.Join(b.name, f.name), Mode: 0o600, Size: int64(len(f.content)), ModTime: now, Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(head); err != nil {
			return err
		}
		if _, err := archive.Write(f.content); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

// fileName makes a node's name safe as part of a file name: a foreign node could have any name.
func fileName(node string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '_'
	}, node)
	if strings.Trim(name, ".") == "" {
		return "_"
	}
	return name
}
