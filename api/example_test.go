package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/weirproxy/weir/api"
)

// canned stands for a node in the examples: it gives each call the answer written down for it.
func canned(answers map[string]any) (addr string, stop func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch a := answers[r.Method+" "+r.URL.Path].(type) {
		case nil:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"type":"about:blank","title":"Not Found","status":404,"code":"not_found","detail":"there is no limit \"none.example.com\""}`)
		case string:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, a)
		default:
			_ = json.NewEncoder(w).Encode(a)
		}
	}))
	return s.URL, s.Close
}

// A limit is read, changed, and written only if nobody else has changed it meanwhile.
func ExampleClient_PutLimit() {
	five := int64(5)
	limit := api.Limit{Pattern: "api.example.com", Connections: &five, ModifyIndex: 12}
	addr, stop := canned(map[string]any{
		"GET /v1/limits/host/api.example.com": limit,
		"PUT /v1/limits/host/api.example.com": api.LimitWritten{Limit: limit, Index: 20},
	})
	defer stop()

	c, err := api.NewClient(addr, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdle()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	l, err := c.Limit(ctx, "host", "api.example.com")
	if err != nil {
		log.Fatal(err)
	}
	l.Queue = &api.Queue{Timeout: api.Duration(2 * time.Second), Size: 100}
	done, err := c.PutLimit(ctx, l, api.IfIndex(l.ModifyIndex))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("written at index", done.Index)
	// Output: written at index 20
}

// What a node refuses is an *api.Error: it says why, and when to try again.
func ExampleError() {
	addr, stop := canned(nil)
	defer stop()
	c, err := api.NewClient(addr, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdle()

	_, err = c.Limit(context.Background(), "host", "none.example.com")
	var refused *api.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Status, refused.Code, refused.RetryAfter)
		fmt.Println(refused)
	}
	// Output:
	// 404 not_found 0s
	// there is no limit "none.example.com"
}

// All hosts, a page at a time.
func ExampleClient_Hosts() {
	addr, stop := canned(map[string]any{
		"GET /v1/hosts": api.Hosts{Hosts: []api.Host{{Host: "api.example.com", Use: api.Use{InUse: 3, Granted: 4}}}},
	})
	defer stop()
	c, err := api.NewClient(addr, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdle()

	for q := (api.HostQuery{Limit: 500}); ; {
		page, err := c.Hosts(context.Background(), q)
		if err != nil {
			log.Fatal(err)
		}
		for _, h := range page.Hosts {
			fmt.Println(h.Host, h.InUse)
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	// Output: api.example.com 3
}

// A program that follows the cluster goes on where it was when its connection is lost.
func ExampleClient_Events() {
	addr, stop := canned(map[string]any{"GET /v1/events": "id: 7\nevent: leader\ndata: {\"type\":\"leader\",\"node\":\"b\",\"text\":\"b leads\"}\n\n"})
	defer stop()
	c, err := api.NewClient(addr, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdle()

	q := api.EventQuery{Types: []string{"leader", "reclaim"}}
	for n, err := range c.Events(context.Background(), q) {
		if err != nil {
			// The node is gone: pause, and call Events again with this q.
			fmt.Println("go on behind", q.After)
			break
		}
		fmt.Println(n.Event.Text)
		q.After = n.ID
	}
	// Output:
	// b leads
	// go on behind 7
}

func ExampleClient_Status() {
	addr, stop := canned(map[string]any{"GET /v1/status": api.Status{Node: "a", Leader: "b", Ready: true}})
	defer stop()
	c, err := api.NewClient(addr, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdle()
	st, err := c.Status(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is ready: %v; %s leads\n", st.Node, st.Ready, st.Leader)
	// Output: a is ready: true; b leads
}
