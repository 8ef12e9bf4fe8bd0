package linear

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// put is a write of a pattern through node a, from one second to another.
func put(value int64, index uint64, from, to int) *Write {
	return &Write{Node: "a", Pattern: "p", Kind: Put, Value: value, Outcome: OK, Index: index, Visible: index, Call: seconds(from), Return: seconds(to)}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

func with(w *Write, change func(*Write)) *Write {
	change(w)
	return w
}

func kind(k Kind, seen int64, o Outcome) func(*Write) {
	return func(w *Write) {
		if w.Kind, w.Seen, w.Outcome = k, seen, o; k == Delete || k == Discard {
			w.Value = Absent
		}
	}
}

func TestWrites(t *testing.T) {
	for what, c := range map[string]struct {
		history []*Write
		wrong   bool
	}{
		"one after the other":                      {[]*Write{put(1, 5, 0, 1), put(2, 6, 2, 3)}, false},
		"at the same time, in either order":        {[]*Write{put(1, 6, 0, 3), put(2, 5, 1, 2)}, false},
		"the log's order is not that of the clock": {[]*Write{put(1, 6, 0, 1), put(2, 5, 2, 3)}, true},
		"a swap of what is there":                  {[]*Write{put(1, 5, 0, 1), with(put(2, 6, 2, 3), kind(Swap, 1, OK))}, false},
		"a stale swap":                             {[]*Write{put(1, 5, 0, 1), put(2, 6, 2, 3), with(put(3, 7, 4, 5), kind(Swap, 1, OK))}, true},
		"a lost write":                             {[]*Write{put(1, 5, 0, 1), with(put(2, 6, 2, 3), kind(Create, 0, OK))}, true},
		"a lost delete":                            {[]*Write{put(1, 5, 0, 1), with(put(0, 6, 2, 3), kind(Delete, 0, OK)), with(put(2, 0, 4, 5), kind(Create, 0, Refused))}, true},
		"a refusal without a reason":               {[]*Write{put(1, 5, 0, 1), with(put(2, 0, 2, 3), kind(Swap, 1, Refused))}, true},
		"a delete of nothing":                      {[]*Write{with(put(0, 0, 0, 1), kind(Delete, 0, NotFound)), put(1, 5, 2, 3)}, false},
		"an unknown outcome, later":                {[]*Write{with(put(1, 0, 0, 1), kind(Put, 0, Unknown)), put(2, 5, 2, 3), with(put(3, 7, 4, 5), kind(Swap, 1, OK))}, false},
		"an unknown outcome, never":                {[]*Write{put(2, 5, 0, 1), with(put(1, 0, 2, 3), kind(Put, 0, Unknown)), with(put(3, 7, 4, 5), kind(Swap, 2, OK))}, false},
		"an unknown outcome, before its call":      {[]*Write{with(put(3, 7, 0, 1), kind(Swap, 1, OK)), with(put(1, 0, 2, 3), kind(Put, 0, Unknown))}, true},
		"a write that counts twice":                {[]*Write{put(1, 9, 0, 9), with(put(2, 6, 1, 2), kind(Swap, 1, OK)), with(put(3, 10, 10, 11), kind(Swap, 1, OK))}, true},
	} {
		picture := filepath.Join(t.TempDir(), "picture.html")
		err := Writes(c.history, picture, time.Minute)
		if (err != nil) != c.wrong {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(picture); (err == nil) != c.wrong {
			t.Errorf("%s: the picture: %v", what, err)
		}
	}
}

func TestViews(t *testing.T) {
	view := func(index uint64, at int, shown ...Shown) *View {
		v := &View{Node: "a", Index: index, Limits: map[string]Shown{}, Call: seconds(at), Return: seconds(at)}
		for _, s := range shown {
			v.Limits["p"] = s
		}
		return v
	}
	elsewhere := func(w *Write) { w.Node = "b" }
	two := []*Write{with(put(1, 5, 0, 1), elsewhere), with(put(2, 7, 2, 3), elsewhere)}
	here := []*Write{put(1, 5, 0, 1), put(2, 7, 2, 3)}
	maybe := []*Write{put(1, 5, 0, 1), with(put(2, 0, 2, 3), kind(Put, 0, Unknown))}
	for what, c := range map[string]struct {
		writes []*Write
		views  []*View
		wrong  string
	}{
		"behind, but in order":             {two, []*View{view(4, 4), view(5, 5, Shown{1, 5}), view(7, 6, Shown{2, 7})}, ""},
		"it goes back":                     {two, []*View{view(7, 4, Shown{2, 7}), view(5, 6, Shown{1, 5})}, "it showed that index: 7"},
		"not what it acknowledged":         {here, []*View{view(5, 4, Shown{1, 5})}, "a write through it was acknowledged: 7"},
		"asked before it was acknowledged": {here, []*View{view(5, 3, Shown{1, 5})}, ""},
		"written by a first attempt":       {[]*Write{with(put(1, 8, 0, 1), func(w *Write) { w.Visible = 5 })}, []*View{view(5, 4, Shown{1, 5})}, ""},
		"another process":                  {here, []*View{{Node: "a", Life: 1, Index: 4, Call: seconds(4)}, {Node: "a", Life: NoLife, Index: 4, Call: seconds(4)}}, ""},
		"a stale limit":                    {two, []*View{view(7, 4, Shown{1, 5})}, "2 was written at 7"},
		"a lost limit":                     {two, []*View{view(7, 4)}, "p is missing"},
		"from nowhere":                     {two, []*View{view(7, 4, Shown{3, 7})}, "nobody wrote"},
		"from the future":                  {two, []*View{view(5, 4, Shown{2, 7})}, "later"},
		"an unknown write took effect":     {maybe, []*View{view(8, 4, Shown{2, 8})}, ""},
		"it did not":                       {maybe, []*View{view(8, 4, Shown{1, 5})}, ""},
		"it did twice":                     {maybe, []*View{view(8, 4, Shown{2, 8}), view(9, 5, Shown{2, 9})}, "written twice"},
	} {
		err := Views(c.writes, c.views)
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v; want %q", what, err, c.wrong)
		}
	}
}
