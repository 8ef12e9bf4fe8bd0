package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
)

// sent is an attempt as the leader gets it.
func sent(name string) *http.Request {
	r := httptest.NewRequest(http.MethodPut, "/", nil)
	r.Header.Set(headerWrite, name)
	return r
}

func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a attempts
		again := withRepeat(t.Context(), 1)

		end, err := a.begin(t.Context(), sent("x"))
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan func())
		go func() {
			end, err := a.begin(again, sent("x"))
			if err != nil {
				t.Error(err)
			}
			second <- end
		}()
		synctest.Wait()
		select {
		case <-second:
			t.Fatal("the second attempt did not wait for the first, which is under way")
		default:
		}
		cut, cancel := context.WithCancel(again)
		cancel()
		if _, err := a.begin(cut, sent("x")); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("an attempt that nobody waits for: %v", err)
		}
		end()
		(<-second)()

		if _, err := a.begin(t.Context(), sent("x")); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("a first attempt after the second: %v", err)
		}
		if end, err := a.begin(again, sent("x")); err != nil {
			t.Errorf("a third attempt: %v", err)
		} else {
			end()
		}
		if end, err := a.begin(t.Context(), sent("y")); err != nil {
			t.Errorf("another write: %v", err)
		} else {
			end()
		}
		for i := range 2 * maxAttempts {
			end, err := a.begin(t.Context(), sent(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			end()
		}
		if len(a.byName) != maxAttempts || len(a.names) != maxAttempts {
			t.Errorf("%d writes are remembered, in a list of %d; want %d", len(a.byName), len(a.names), maxAttempts)
		}
	})
}

// A first attempt that a leader reads only after the second, having stood still meanwhile, undoes
// nothing.
func TestLateFirstAttemptIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a", "b", "c")
		leader := b.nodes["a"].server.PeerHandler()
		first := put("x.org", `{"connections":5}`)
		first.header = map[string]string{headerForwarded: "b", headerWrite: "one"}
		b.put("x.org", 9)
		b.see()
		second := first
		second.header = maps.Clone(first.header)
		second.header[headerRepeat] = fmt.Sprint(b.tableNow().Index)
		if w := b.nodes["a"].serve(leader, second); w.Code != http.StatusOK {
			t.Fatalf("the second attempt: %d %s", w.Code, w.Body)
		}
		b.put("x.org", 7)
		if w := b.nodes["a"].serve(leader, first); w.Code != http.StatusGatewayTimeout {
			t.Errorf("the first attempt, late: %d %s", w.Code, w.Body)
		}
		if l := b.tableNow().Limits()[0]; l.Connections != 7 {
			t.Errorf("the limit is %d; what was written after it, 7, is undone", l.Connections)
		}
	})
}
