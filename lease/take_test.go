package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limit"
)

// A unit that the leader asked for stays with a node until its request has had a token of it. Where
// the request goes away before, or has waited for long enough, the unit goes at once.
func TestRecallWaitsForNoRequestThatHasEnded(t *testing.T) {
	for name, ends := range map[string]struct {
		patience time.Duration // of the request
		want     error
	}{"cancelled": {10 * time.Second, context.DeadlineExceeded}, "expired": {time.Hour, ErrQueueTimeout}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"}
				queue := limit.Queue{Timeout: 20 * time.Second, Size: 9}
				c := startCluster(t, requestLimit(t, "up", "1/m", 1, queue))
				nodes := startThree(t, c)
				subject := &limit.Subject{Host: to(t, "up")}
				if err := nodes["a"].Take(t.Context(), subject, 0); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), ends.patience)
					defer cancel()
					ended <- nodes["b"].Take(ctx, subject, 0)
				}()
				time.Sleep(5 * time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 18*time.Second)
				defer cancel()
				other := make(chan error, 1)
				go func() { other <- nodes["a"].Take(ctx, subject, 0) }()
				time.Sleep(time.Second)
				if use, _ := nodes["b"].Use(key); use.Granted == 0 || use.Waiting != 1 {
					t.Fatalf("a node whose request waits for a token of the unit that it has: %+v", use)
				}
				if err := <-ended; !errors.Is(err, ends.want) {
					t.Fatalf("the request ended with %v", err)
				}
				time.Sleep(100 * time.Millisecond)
				if use, _ := nodes["b"].Use(key); use.Granted != 0 {
					t.Errorf("a node whose request has ended keeps what was asked for: %+v", use)
				}
				if use, _ := nodes["a"].Use(key); use.Granted == 0 {
					t.Errorf("a node whose request waits for the only unit: %+v", use)
				}
				cancel()
				<-other
			})
		})
	}
}
