package weir_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/weirproxy/weir"
)

// An http.Client whose connections to a host are limited. The upstream here is a test's; a limit is
// on a host's name as well as on an address.
func Example() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer upstream.Close()

	ctx := context.Background()
	node, err := weir.Start(ctx, weir.Config{
		Proxy:  "127.0.0.1:0",
		Limits: []weir.Limit{weir.HostLimit("127.0.0.1", 5)},
	})
	if err != nil {
		panic(err)
	}
	defer node.Close(ctx)
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(node.ProxyURL())}}
	defer client.CloseIdleConnections()

	resp, err := client.Get(upstream.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.Status, string(body))
	// Output: 200 OK hello
}

// A limit that is changed while the program runs. A permit is for what the program does without the
// proxy.
func ExampleLimits_Set() {
	ctx := context.Background()
	node, err := weir.Start(ctx, weir.Config{Limits: []weir.Limit{weir.KeyLimit("tenant/*", 1)}})
	if err != nil {
		panic(err)
	}
	defer node.Close(ctx)

	subject := weir.Subject{Key: "tenant/42"}
	first, err := node.Acquire(ctx, subject)
	fmt.Println("first:", err)
	_, err = node.Acquire(ctx, subject)
	fmt.Println("second:", err, errors.Is(err, weir.ErrOverLimit))

	if err := node.Limits().Set(ctx, weir.KeyLimit("tenant/*", 2)); err != nil {
		panic(err)
	}
	second, err := node.Acquire(ctx, subject)
	fmt.Println("second:", err)
	first.Release()
	second.Release()
	// Output:
	// first: <nil>
	// second: key tenant/42 connections: the limit is reached true
	// second: <nil>
}

// Three nodes of one cluster, here in one process. They share one count.
func ExampleStart_cluster() {
	dir, err := os.MkdirTemp("", "weir")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	var nodes []*weir.Node
	var join []string
	for _, name := range []string{"a", "b", "c"} {
		node, err := weir.Start(ctx, weir.Config{
			Name:   name,
			Limits: []weir.Limit{weir.HostLimit("api.example.com", 2)},
			Cluster: &weir.Cluster{
				DataDir: filepath.Join(dir, name), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0",
				Join: join, BootstrapExpect: 3,
			},
		})
		if err != nil {
			panic(err)
		}
		defer node.Close(ctx)
		nodes, join = append(nodes, node), append(join, node.GossipAddr())
	}
	for _, node := range nodes {
		if err := node.Ready(ctx); err != nil {
			panic(err)
		}
	}
	for _, node := range nodes {
		permit, err := node.Acquire(ctx, weir.Subject{Host: "api.example.com:443"})
		if err == nil {
			defer permit.Release()
		}
		fmt.Println(node.Name(), err)
	}
	// Output:
	// a <nil>
	// b <nil>
	// c api.example.com: the limit is reached
}
