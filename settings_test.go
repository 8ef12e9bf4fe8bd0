package weir

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
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
