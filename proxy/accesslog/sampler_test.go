package accesslog

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// In each second the first few lines are logged, and then the number of the others: none is lost.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []int64
		var mu sync.Mutex // for the race detector: the timer's calls come one after the other
		s := NewSampler(time.Second, func(left int64) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, left)
		})
		defer s.Close()
		shown := 0
		storm := func(n int) {
			for range n {
				if s.Show() {
					shown++
				}
			}
		}
		storm(Shown)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if shown != Shown || len(told) != 0 {
			t.Fatalf("%d shown, told %v", shown, told)
		}
		shown = 0
		for range 3 {
			storm(300)
			time.Sleep(time.Second / 2)
			storm(100)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if want := []int64{390, 390, 390}; shown != 3*Shown || !slices.Equal(told, want) {
			t.Fatalf("%d shown, told %v; want %v", shown, told, want)
		}
		storm(Shown + 5)
		s.Close()
		if told[len(told)-1] != 5 {
			t.Fatalf("the end tells %v", told)
		}
	})
}
