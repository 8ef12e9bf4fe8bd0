package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestWatch(t *testing.T) {
	one, two := `{"hosts":[`+freeJSON+`]}`, `{"hosts":[]}`
	watch := func(p *process, answers []string, args ...string) string {
		f := newFakeAPI(t, map[string][]string{"GET /v1/hosts": answers})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := &endAfter{n: len(answers), end: cancel}
		inner := p.getenv
		p.getenv = func(name string) string {
			if name == "WEIR_ADDR" {
				return f.URL
			}
			return inner(name)
		}
		var errs bytes.Buffer
		if code := run(ctx, p, append([]string{"hosts", "--watch"}, args...), w, &errs); code != 0 {
			t.Errorf("exit %d: %s", code, &errs)
		}
		return w.String()
	}
	plain := watch(testProcess(), []string{one, "503|busy", two})
	if strings.Count(plain, "HOST") != 2 || !strings.Contains(plain, "Error: busy") || strings.Contains(plain, "\x1b") {
		t.Errorf("%q", plain)
	}
	dumb := testProcess("TERM=dumb")
	dumb.rows = func() (int, bool) { return 24, true }
	if plain := watch(dumb, []string{one, two}, "--interval", "100ms"); strings.Count(plain, "HOST") != 2 || strings.Contains(plain, "\x1b") {
		t.Errorf("%q", plain)
	}
	if raw := watch(testProcess(), []string{one, two}, "--json"); raw != one+"\n"+two+"\n" {
		t.Errorf("%q", raw)
	}
	f := newFakeAPI(t, nil)
	if code, _, _ := f.weir(testProcess(), "hosts", "--watch"); code != 1 {
		t.Errorf("a watch that can't begin: exit %d", code)
	}
}

// endAfter is a buffer that ends something with its n-th write.
type endAfter struct {
	text strings.Builder
	n    int
	end  func()
}

func (e *endAfter) String() string { return e.text.String() }

func (e *endAfter) Write(b []byte) (int, error) {
	if e.n--; e.n == 0 {
		e.end()
	}
	return e.text.Write(b)
}
