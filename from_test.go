package weir_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/weirproxy/weir"
)

// The blocks of docs/from.md under dprl.
func Example_fromDprl() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer upstream.Close()
	ctx, logger := context.Background(), slog.New(slog.DiscardHandler)

	// quote: dprl-start
	node, err := weir.Start(ctx, weir.Config{
		Proxy:  "127.0.0.1:0",
		Limits: []weir.Limit{weir.HostLimit("*", 20), weir.HostLimit("api.example.com", 5)},
		Logger: logger,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)

	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(node.ProxyURL())}}
	// end quote
	defer client.CloseIdleConnections()

	resp, err := client.Get(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, "open:", node.Active("127.0.0.1"))

	// quote: dprl-limits
	err = node.Limits().Set(ctx, weir.HostLimit("api.example.com", 10))
	// end quote
	one, _ := node.Limits().Get(ctx, "", "api.example.com")
	fmt.Println(err, *one.Connections)
	// Output:
	// 200 OK open: 1
	// <nil> 10
}
