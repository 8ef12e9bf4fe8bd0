package weir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/config/certs"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy"
)

// A reload that begins while another one is writing the limits waits for it, so that the published
// digest is always that of the limits which the cluster gets.
func TestReloadsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps []string
		var digests, limits []string
		write := make(chan struct{})
		r := reloader{
			turn: make(chan struct{}, 1),
			settings: func() (*config.Config, api.Reloaded, error) {
				file := fmt.Sprintf("file-%d.test", len(steps)) // another one at each reload
				steps = append(steps, "read")
				p, err := limit.ParsePattern(file)
				if err != nil {
					t.Error(err)
				}
				return &config.Config{Limits: []config.Limit{{Limit: limit.Limit{Pattern: p, Connections: 1}}}}, api.Reloaded{}, nil
			},
			digest: func(d string) { steps, digests = append(steps, "digest"), append(digests, d) },
			limits: func(_ context.Context, l []limit.Limit) (bool, error) {
				<-write
				steps = append(steps, "limits")
				limits = append(limits, config.Digest(0, l))
				return true, nil
			},
		}
		var reloads sync.WaitGroup
		for range 2 {
			reloads.Go(func() {
				if got, err := r.reload(t.Context()); err != nil || len(got.Applied) != 1 || got.Applied[0] != "limits" {
					t.Errorf("reloaded: %v, %v", got, err)
				}
			})
		}
		synctest.Wait() // one writes, and the other one must wait
		if got := strings.Join(steps, " "); got != "read digest" {
			t.Errorf("while the first one writes: %s", got)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := r.reload(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("a reload that nobody waits for any more: %v", err)
		}
		close(write)
		reloads.Wait()
		if got := strings.Join(steps, " "); got != "read digest limits read digest limits" {
			t.Errorf("in all: %s", got)
		}
		for i := range limits {
			if digests[i] != limits[i] {
				t.Errorf("reload %d published the digest of other limits", i+1)
			}
		}
		if digests[0] == digests[1] {
			t.Error("both files are the same: nothing was tested")
		}
	})
}

// A config with an error publishes nothing and changes no limit.
func TestABrokenConfigIsNotPublished(t *testing.T) {
	broken := errors.New("broken")
	r := reloader{
		turn:     make(chan struct{}, 1),
		settings: func() (*config.Config, api.Reloaded, error) { return nil, api.Reloaded{}, broken },
		digest:   func(string) { t.Error("its digest is published") },
		limits: func(context.Context, []limit.Limit) (bool, error) {
			t.Error("its limits are written")
			return false, nil
		},
	}
	if _, err := r.reload(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// reloading is a node that is alone, and starts from a config. What it logs goes to log.
func reloading(t *testing.T, cfg *config.Config, log io.Writer) (n *Node, next *config.Config) {
	t.Helper()
	cfg.Proxy.Listen, cfg.Proxy.AccessLog, cfg.API.Listen = nil, config.AccessLogOff, ""
	next = new(config.Config)
	*next = *cfg
	n, err := StartFrom(t.Context(), Source{
		Config: cfg, Load: func() (*config.Config, error) { c := *next; return &c, nil },
		Log: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn}), alone: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, next
}

// A node whose file has another lease.ttl than the cluster is named from the reload on, and not
// only after a restart.
func TestAnotherTTLIsSeenAtAReload(t *testing.T) {
	t.Parallel()
	n, next := reloading(t, config.Default(true), io.Discard)
	for _, c := range []struct {
		ttl       time.Duration
		disagrees bool
	}{{10 * time.Second, false}, {20 * time.Second, true}, {10 * time.Second, false}} {
		next.Lease.TTL = c.ttl
		if _, err := n.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(n.disagreements()) > 0; got != c.disagrees {
			t.Errorf("lease.ttl %v: disagrees %v; want %v", c.ttl, got, c.disagrees)
		}
	}
}

// If the limits can't be written, what is applied all the same is named, without them.
func TestAPartialReloadSaysWhatIsApplied(t *testing.T) {
	noLeader := errors.New("no leader")
	r := reloader{
		turn: make(chan struct{}, 1),
		settings: func() (*config.Config, api.Reloaded, error) {
			return config.Default(true), api.Reloaded{Applied: []string{"log.level", "limits"}, NeedRestart: []string{"lease.ttl"}}, nil
		},
		digest: func(string) {},
		limits: func(context.Context, []limit.Limit) (bool, error) { return false, noLeader },
	}
	got, err := r.reload(t.Context())
	if !errors.Is(err, server.ErrPartlyReloaded) || !errors.Is(err, noLeader) {
		t.Error(err)
	}
	if !slices.Equal(got.Applied, []string{"log.level"}) || !slices.Equal(got.NeedRestart, []string{"lease.ttl"}) {
		t.Errorf("%+v", got)
	}
}

// lockedBuffer is a log that is read while a node writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// After a reload the settings in force are shown with their lines: none where the line says something
// else, which waits for a restart. What the operator should know of them is logged again.
func TestReloadedSettingsAreShown(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	cfg := config.Default(true)
	cfg.Origins = map[string]config.Position{
		"lease.ttl": {File: "weir.hcl", Line: 1}, "proxy.reject_status": {File: "weir.hcl", Line: 2}, "name": {File: "weir.hcl", Line: 3},
	}
	n, next := reloading(t, cfg, &log)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	next.Lease.TTL, next.Proxy.RejectStatus = 20*time.Second, 429
	next.API.TokenFile, next.API.Token = token, "secret"
	next.Origins = map[string]config.Position{
		"lease.ttl": {File: "weir.hcl", Line: 11}, "proxy.reject_status": {File: "weir.hcl", Line: 12}, "name": {File: "weir.hcl", Line: 13},
	}
	if strings.Contains(log.String(), token) {
		t.Error("the token's file is named before the reload")
	}
	reloaded, err := n.Reload(t.Context())
	if err != nil || !slices.Contains(reloaded.NeedRestart, "lease.ttl") {
		t.Fatal(reloaded, err)
	}
	want := map[string]string{
		"lease.ttl": `"10s" at `, "proxy.reject_status": "429 at weir.hcl:12", "name": fmt.Sprintf("%q at weir.hcl:13", cfg.Name),
	}
	for _, s := range (view{n}).Settings() {
		if got := s.Value + " at " + s.At; want[s.Path] != "" && got != want[s.Path] {
			t.Errorf("%s is shown as %s; want %s", s.Path, got, want[s.Path])
		}
	}
	if len(next.Origins) != 3 {
		t.Error("the file's own lines are lost")
	}
	if said := log.String(); !strings.Contains(said, "every user of this machine can read") || !strings.Contains(said, token) {
		t.Errorf("the log does not warn of the token's file: %q", said)
	}
}

// newCertificate writes a certificate and its key, of some CA, to files.
func newCertificate(t *testing.T, files certs.Files) {
	t.Helper()
	dir := t.TempDir()
	write := func(path string, b []byte) string {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, err := certs.NewAuthority(time.Now(), 300, nil)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := certs.ReadAuthority(write(filepath.Join(dir, "ca.pem"), ca.Cert), write(filepath.Join(dir, "ca-key.pem"), ca.Key), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(certs.Request{Node: "a", Days: 100}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	write(files.Cert, pair.Cert)
	write(files.Key, pair.Key)
}

// keyed notes the gossip keys that it is given.
type keyed struct {
	membership
	keys    cluster.GossipKeys
	refusal error
}

func (k *keyed) SetGossipKeys(keys cluster.GossipKeys) error {
	if k.refusal == nil {
		k.keys = keys
	}
	return k.refusal
}

// A reload that fails has changed nothing, whatever it fails at.
func TestAFailedReloadChangesNothing(t *testing.T) {
	refusal := errors.New("no such key ring")
	for name, c := range map[string]struct {
		change  func(t *testing.T, next *config.Config)
		refusal error
		broken  bool // the second certificate
		want    string
	}{
		"an access log that can't be opened": {
			change: func(t *testing.T, next *config.Config) { next.Proxy.AccessLog = t.TempDir() }, want: "proxy.access_log",
		},
		"gossip keys that are refused": {change: func(*testing.T, *config.Config) {}, refusal: refusal, want: refusal.Error()},
		"a policy that can't be":       {change: func(_ *testing.T, next *config.Config) { next.Proxy.RejectStatus = 200 }, want: "reject_status"},
		"a broken certificate":         {change: func(*testing.T, *config.Config) {}, broken: true, want: "proxy listener"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files := func(listener string) certs.Files {
				return certs.Files{Cert: filepath.Join(dir, listener+".pem"), Key: filepath.Join(dir, listener+"-key.pem")}
			}
			open := func(listener string) *certs.Source {
				newCertificate(t, files(listener))
				s, err := certs.Open(certs.SourceConfig{Listener: listener, Files: files(listener), Log: hclog.NewNullLogger()})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			before := config.Default(true)
			before.Cluster.GossipKey = "0123456789abcdef"
			before.Proxy.AccessLog = filepath.Join(dir, "access.log")
			next := *before
			next.Cluster.GossipKey = "fedcba9876543210"
			c.change(t, &next)
			members := &keyed{refusal: c.refusal}
			n := &Node{
				members: members, log: hclog.NewNullLogger(), certs: certificates{api: open("api"), proxy: open("proxy")},
				source: Source{Load: func() (*config.Config, error) { return &next, nil }},
			}
			n.cfg.Store(before)
			lines, err := n.access.prepare(before)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.access.use(lines, func(proxy.LineOutput) {}); err != nil {
				t.Fatal(err)
			}
			defer n.access.close()
			file, certificate := n.access.file, n.certs.api.Current()
			newCertificate(t, files("api"))
			if c.broken {
				if err := os.WriteFile(files("proxy").Cert, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err = n.reloadSettings()
			if !errors.Is(err, server.ErrInvalidConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want an invalid configuration: %s", err, c.want)
			}
			if n.access.file != file || n.certs.api.Current() != certificate || members.keys != nil || n.cfg.Load() != before {
				t.Errorf("changed: access log %v, certificate %v, gossip keys %v, settings %v",
					n.access.file != file, n.certs.api.Current() != certificate, members.keys != nil, n.cfg.Load() != before)
			}
		})
	}
}
