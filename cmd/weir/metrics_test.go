package main

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
)

func TestReclaims(t *testing.T) {
	var r reclaims
	r.note(lease.SessionEnd{Why: "expired", Slots: 5, Silent: 10 * time.Second})
	r.note(lease.SessionEnd{Why: "expired", Slots: 2, Silent: 11 * time.Second})
	r.note(lease.SessionEnd{Why: "left"})
	r.note(lease.SessionEnd{Why: "taken over", Slots: 1, Silent: time.Second})
	took, slots := r.read()
	for why, want := range map[string]struct {
		count uint64
		sum   time.Duration
		slots int64
	}{"expired": {2, 21 * time.Second, 7}, "left": {1, 0, 0}, "taken_over": {1, time.Second, 1}} {
		if d := took[why]; d.Count != want.count || d.Sum != want.sum || slots[why] != want.slots {
			t.Errorf("%s: %d in %v, %d slots; want %+v", why, d.Count, d.Sum, slots[why], want)
		}
	}
}
