package server

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirproxy/weir/api"
)

// TestClientCoversTheAPI: there is a method of the client for each call that /v1/openapi.json
// describes.
func TestClientCoversTheAPI(t *testing.T) {
	var called []string
	c, err := api.NewClient("", "", roundTripper(func(r *http.Request) (*http.Response, error) {
		called = append(called, r.Method+" "+r.URL.EscapedPath())
		return &http.Response{StatusCode: http.StatusTeapot, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(c)
	for i := range v.NumMethod() {
		callWithAnything(t, v.Method(i))
	}
	for _, scope := range []string{"total", "connection"} { // which have no patterns
		_, _ = c.Limit(t.Context(), scope, "")
		_, _ = c.PutLimit(t.Context(), api.Limit{Scope: scope})
		_, _ = c.DeleteLimit(t.Context(), scope, "")
	}
	checked := 0
	for path, operations := range readSpec(t).Paths {
		if strings.HasPrefix(path, "/ui") {
			continue // is for browsers
		}
		re := regexp.MustCompile("^" + regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), "[^/]+") + "$")
		for method := range operations {
			checked++
			covered := slices.ContainsFunc(called, func(call string) bool {
				m, p, _ := strings.Cut(call, " ")
				return m == strings.ToUpper(method) && re.MatchString(p)
			})
			if !covered {
				t.Errorf("no method of the client makes %s %s", strings.ToUpper(method), path)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d calls are described", checked)
	}
}

// callWithAnything calls a method that takes a context first, with some value for each argument,
// and follows what it yields.
func callWithAnything(t *testing.T, method reflect.Value) {
	typ := method.Type()
	if typ.NumIn() == 0 || typ.In(0) != reflect.TypeFor[context.Context]() {
		return
	}
	args := []reflect.Value{reflect.ValueOf(t.Context())}
	for i := 1; i < typ.NumIn(); i++ {
		switch in := typ.In(i); {
		case typ.IsVariadic() && i == typ.NumIn()-1:
		case in.Kind() == reflect.String:
			args = append(args, reflect.ValueOf("x").Convert(in))
		case in == reflect.TypeFor[io.Writer]():
			args = append(args, reflect.ValueOf(io.Discard))
		case in == reflect.TypeFor[io.Reader]():
			args = append(args, reflect.ValueOf(strings.NewReader("x")))
		case in == reflect.TypeFor[api.Limit]():
			args = append(args, reflect.ValueOf(api.Limit{Pattern: "x"}))
		default:
			args = append(args, reflect.Zero(in))
		}
	}
	for _, out := range method.Call(args) {
		if out.Kind() == reflect.Func {
			yield := reflect.MakeFunc(out.Type().In(0), func([]reflect.Value) []reflect.Value { return []reflect.Value{reflect.ValueOf(true)} })
			out.Call([]reflect.Value{yield})
		}
	}
}
