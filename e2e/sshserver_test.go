package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server that lets anybody in. A session says the same, whatever it is asked to
// run, and ends.
type sshServer struct {
	config ssh.ServerConfig
	says   string
	seen   func() // is called for each connection that has authenticated
}

// serveSSH serves SSH on a listener, which it closes when the test ends.
func serveSSH(t testing.TB, ln net.Listener, says string, seen func()) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{config: ssh.ServerConfig{NoClientAuth: true}, says: says, seen: seen}
	s.config.AddHostKey(signer)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			all.Go(func() { defer stop(); s.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); cancel(); all.Wait() })
}

// serve serves one client; what fails is the client's to report.
func (s *sshServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_, channels, requests, err := ssh.NewServerConn(conn, &s.config)
	if err != nil {
		return
	}
	s.seen()
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			_ = r.Reply(r.Type != "pty-req", nil)
			if r.Type == "shell" || r.Type == "exec" {
				_, _ = fmt.Fprintln(channel, s.says)
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
				_ = channel.Close()
			}
		}
	}
}
