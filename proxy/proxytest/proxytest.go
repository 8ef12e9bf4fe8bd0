// Package proxytest holds what the tests of the proxy and those of its rooms need: a certificate, a
// socket, and a log that can be read.
package proxytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/sock"
)

// Certificate makes a self-signed certificate for 127.0.0.1. Its Leaf is the CA to trust.
func Certificate(t testing.TB) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Sock takes over a connection as a socket of the proxy's.
func Sock(t testing.TB, conn *net.TCPConn, buffers *sock.Buffers) *sock.Conn {
	t.Helper()
	defer func() { _ = conn.Close() }()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := sock.New(fd, buffers)
	t.Cleanup(s.Close)
	return s
}

// Journal is a log in JSON that can be read while it is written. The zero value is empty.
type Journal struct {
	// Written gets one entry for each write; nil: none. Set it before the first write.
	Written chan struct{}

	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (j *Journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.Written != nil {
		j.Written <- struct{}{}
	}
	return j.buf.Write(b)
}

// Lines returns the lines with the message.
func (j *Journal) Lines(t *testing.T, message string) []map[string]any {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []map[string]any
	for line := range strings.Lines(j.buf.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if m["@message"] == message {
			found = append(found, m)
		}
	}
	return found
}
