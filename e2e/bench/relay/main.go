// Command relay is the floor that weir is measured against: what a proxy in Go costs that does
// nothing but relay. It parses heads by hand, and neither limits, checks, counts, times out nor
// logs anything.
//
// CONNECT tunnels are two io.Copy between TCP connections, which splice in the kernel.
// Absolute-form GET requests, without a body and with a Content-Length in the answer, are forwarded
// over kept-alive connections.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	flag.Parse()
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
	r := relay{idle: map[string][]*net.TCPConn{}}
	if err := r.serve(ln); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}
