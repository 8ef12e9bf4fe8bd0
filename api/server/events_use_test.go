package server

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// ratedUse is use of a host with three rates of one level.
func ratedUse(name string, level float64) NodeUse {
	u := use(name, 1)
	r := NodeRate{Granted: level, Available: level}
	u.Rates = map[limit.Resource]NodeRate{limit.Requests: r, limit.Upload: r, limit.Download: r}
	return u
}

const rated = `{"connections":5,"requests":{"rate":"10/s","burst":20},"bandwidth":{"upload":"1MB","download":"10MB","burst":"2MB"}}`

// turns lets the answers of other nodes come in another order each time.
type turns struct {
	of    *benchNode
	asked int
}

func (p *turns) Peers() []Peer {
	p.asked++
	peers := p.of.Peers()
	for i := range peers {
		late, rt := time.Duration((i+p.asked)%len(peers))*time.Millisecond, peers[i].RT
		peers[i].RT = roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(late) // fake
			return rt.RoundTrip(r)
		})
	}
	return peers
}

// TestUnchangedRatesAreNotSentAgain: of 10,000 hosts with rates, those without a change cost
// nothing; a level that rises by itself is a change.
func TestUnchangedRatesAreNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a", "b", "c", "d")
		a := b.nodes["a"]
		a.server.deps.Peers = &turns{of: a}
		for _, name := range []string{"still.org", "rising.org"} {
			get[api.LimitWritten](t, a.do(put(name, rated)))
		}
		b.see()
		levels := map[string]float64{"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.6} // three sums in three orders
		for name, n := range b.nodes {
			n.uses = []NodeUse{ratedUse("still.org", levels[name]), ratedUse("rising.org", levels[name])}
		}
		stop := a.serveOnPipes(t)
		defer stop()
		res, cancel := a.stream(t, "?types=use", "")
		defer cancel()
		frames := 0
		follow(t, res.Body, func(_, _, data string) bool {
			var f api.UseFrame
			if err := json.Unmarshal([]byte(data), &f); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range f.Hosts {
				got = append(got, h.Host)
			}
			want := []string{"rising.org"}
			if frames == 0 {
				want = []string{"rising.org", "still.org"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("frame %d has %q, want %q", frames, got, want)
			}
			frames++
			a.set(func() { a.uses = []NodeUse{ratedUse("still.org", 0.1), ratedUse("rising.org", float64(frames))} })
			return frames < 8
		})
	})
}

// TestEachNumberOfAUseIsCompared: also the ones that a pointer shows.
func TestEachNumberOfAUseIsCompared(t *testing.T) {
	a := filled(reflect.TypeFor[api.Use]())
	numbers := 0
	each(a.Elem(), func(v reflect.Value, path string) {
		numbers++
		b := filled(reflect.TypeFor[api.Use]())
		if !sameNumbers(*a.Interface().(*api.Use), *b.Interface().(*api.Use)) {
			t.Fatal("two equal uses differ")
		}
		before := reflect.New(v.Type()).Elem()
		before.Set(v)
		v.SetZero()
		if sameNumbers(*a.Interface().(*api.Use), *b.Interface().(*api.Use)) {
			t.Errorf("without %s it is the same", path)
		}
		v.Set(before)
	})
	if numbers < 30 {
		t.Errorf("%d numbers were compared", numbers)
	}
}

// filled is a pointer to a value in which nothing is zero.
func filled(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	each(p.Elem(), func(v reflect.Value, _ string) {
		switch {
		case v.Kind() == reflect.Pointer:
			v.Set(filled(v.Type().Elem()))
		case v.CanInt():
			v.SetInt(1)
		case v.CanUint():
			v.SetUint(1)
		case v.CanFloat():
			v.SetFloat(1)
		}
	})
	return p
}

// each calls f with each field of a struct, and with what its pointers show.
func each(v reflect.Value, f func(v reflect.Value, path string)) {
	if v.Kind() != reflect.Struct {
		f(v, "it")
		return
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		f(v.Field(i), name)
		if p := v.Field(i); p.Kind() == reflect.Pointer && p.Elem().Kind() == reflect.Struct {
			each(p.Elem(), func(v reflect.Value, path string) { f(v, name+"."+path) })
		}
	}
}
