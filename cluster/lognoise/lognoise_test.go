package lognoise

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// What strangers cause is said a few times in half a minute, however many they are.
func TestStrangersCauseFewLines(t *testing.T) {
	const times = 5000
	said, shown, now := Strangers(), 0, time.Now()
	for i := range times {
		if said.Due(fmt.Sprint("host ", i), now) {
			shown++
		}
	}
	if shown != maxStrangers {
		t.Errorf("%d lines about %d strangers", shown, times)
	}
	if !said.Due("host 0", now.Add(every)) {
		t.Error("a line is still held back after half a minute")
	}
}

// A text is repeated at intervals, and a new one is due at once.
func TestReminder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Reminder{Every: time.Minute}
		for i, step := range []struct {
			text string
			want bool
		}{{"a", true}, {"a", false}, {"b", true}, {"a", true}, {"a", false}} {
			if got := r.Due(step.text); got != step.want {
				t.Errorf("step %d: %q due: %v", i, step.text, got)
			}
		}
		time.Sleep(time.Minute)
		if !r.Due("a") {
			t.Error("a text is not repeated after a minute")
		}
	})
}
