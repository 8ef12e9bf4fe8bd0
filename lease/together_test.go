package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// scopeRate is a rate of a scope, with a queue.
func scopeRate(t *testing.T, scope limit.Scope, pattern, rate string, burst int64) limit.Limit {
	t.Helper()
	l := requestLimit(t, "up", rate, burst, limit.Queue{Timeout: 10 * time.Minute, Size: 1000})
	var err error
	if l.Pattern, err = scope.ParsePattern(pattern); err != nil {
		t.Fatal(err)
	}
	return l
}

// All of a request's tokens are taken when it begins: those who have waited for one limit, apart
// from each other, don't begin together under another one.
func TestTokensAreTakenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := scopeRate(t, limit.ScopeClient, "10.0.0.1", "1/h", 1)
		cl := startCluster(t, scopeRate(t, limit.ScopeTotal, "", "10/s", 2), slow)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		j := newJudge()
		var wg sync.WaitGroup
		for range 9 {
			wg.Go(func() {
				if err := m.Take(t.Context(), &limit.Subject{Client: limit.ClientOf(addr(t, "10.0.0.1")), Host: to(t, "up")}, 0); err != nil {
					t.Error(err)
				}
				j.note("a")
			})
			time.Sleep(time.Second)
		}
		fast := scopeRate(t, limit.ScopeClient, "10.0.0.1", "10000/s", 100)
		fast.Source = limit.SourceAPI
		if _, err := cl.Propose(t.Context(), 1, &fsm.PutLimit{Limit: fast}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		j.check(t, 10, 2)
	})
}

// flow begins requests of a subject, one after the other, and counts them.
func flow(ctx context.Context, wg *sync.WaitGroup, m *Manager, s *limit.Subject, workers int, served *int) {
	var mu sync.Mutex
	for range workers {
		wg.Go(func() {
			for m.Take(ctx, s, 0) == nil {
				mu.Lock()
				*served++
				mu.Unlock()
			}
		})
	}
}

// A client that waits for its own slow limit takes nothing of what it shares with others; and one
// under two limits, each of which others contend for, gets its part of both.
func TestSeveralRatesHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := startCluster(t, scopeRate(t, limit.ScopeTotal, "", "20/s", 4), scopeRate(t, limit.ScopeClient, "10.0.0.1", "6/m", 3),
			scopeRate(t, limit.ScopeClient, "10.0.0.2", "4/s", 1), requestLimit(t, "up", "5/s", 2, limit.Queue{Timeout: time.Minute, Size: 1000}))
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		var slow, both, elsewhere, others, rest int
		client := func(a, host string) *limit.Subject {
			return &limit.Subject{Client: limit.ClientOf(addr(t, a)), Host: to(t, host)}
		}
		flow(ctx, &wg, m, client("10.0.0.1", "up"), 30, &slow)
		flow(ctx, &wg, m, client("10.0.0.2", "up"), 4, &both)
		flow(ctx, &wg, m, client("10.0.0.2", "down"), 4, &elsewhere)
		flow(ctx, &wg, m, client("10.0.0.3", "up"), 4, &others)
		flow(ctx, &wg, m, client("10.0.0.3", "down"), 4, &rest)
		wg.Wait()
		t.Logf("slow %d, under two %d, its client elsewhere %d, its host for others %d, rest %d", slow, both, elsewhere, others, rest)
		for what, c := range map[string]struct{ got, least int }{
			"a slow client's requests": {slow, 8}, "requests under two contended limits": {both, 60}, "those of its client to elsewhere": {elsewhere, 60},
			"those of others to its host": {others, 60}, "in all": {slow + both + elsewhere + others + rest, 60 * 20 * 95 / 100},
		} {
			if c.got < c.least {
				t.Errorf("%s: %d served, want at least %d", what, c.got, c.least)
			}
		}
	})
}

// A limit has one queue: who waits for a slot and who waits for a token count together.
func TestQueueIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := requestLimit(t, "up", "1/h", 2, limit.Queue{Timeout: time.Minute, Size: 3})
		l.Connections = 1
		cl := startCluster(t, l)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		subject := &limit.Subject{Host: to(t, "up")}
		for range 2 {
			if err := m.Take(ctx, subject, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := acquire(m, ctx, subject.Host, newHolder()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = acquire(m, ctx, subject.Host, newHolder()) })
		}
		wg.Go(func() { _ = m.Take(ctx, subject, 0) })
		synctest.Wait()
		if err := m.Take(ctx, subject, 0); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a fourth in a queue of 3, for a token: %v", err)
		}
		if _, err := acquire(m, ctx, subject.Host, newHolder()); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a fourth in a queue of 3, for a slot: %v", err)
		}
		cancel()
		wg.Wait()
	})
}
