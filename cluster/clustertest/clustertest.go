// Package clustertest holds what the tests of several of cluster's packages need: certificates, a
// log that can be read, addresses, and waiting for a condition.
package clustertest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirproxy/weir/config/certs"
)

// Main runs a package's tests, then looks for goroutines that are left behind. memberlist does not
// wait for the probe that is under way when it is shut down: it ends by itself once its interval
// has passed, so the search goes on for a few seconds.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := findLeaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// NoLeaks fails the test if goroutines are left behind other than those that before names. No other
// test may run.
func NoLeaks(t *testing.T, before goleak.Option) {
	t.Helper()
	if err := findLeaks(before); err != nil {
		t.Error(err)
	}
}

const leaksEndWithin = 8 * time.Second

func findLeaks(except ...goleak.Option) (err error) {
	for end := time.Now().Add(leaksEndWithin); time.Now().Before(end); {
		if err = goleak.Find(except...); err == nil {
			return nil
		}
	}
	return err
}

// Must ends the test if err is not nil.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits for a condition.
func Eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(within)
	for !cond() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("after %s: not yet: %s", within, what)
		}
	}
}

// IsTimeout reports whether a connection's deadline has passed.
func IsTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Interfaces are a machine's addresses, as [net.InterfaceAddrs] returns them.
func Interfaces(list ...string) (addrs []net.Addr) {
	for _, s := range list {
		addrs = append(addrs, &net.IPNet{IP: net.ParseIP(s)})
	}
	return addrs
}

// AddrPorts parses addresses with ports.
func AddrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

// Log keeps the lines that are written to it.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements [io.Writer].
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Lab makes certificates of one CA.
type Lab struct {
	t   *testing.T
	dir string
	ca  *certs.Authority
	now time.Time
}

// NewLab makes a CA.
func NewLab(t *testing.T) *Lab {
	t.Helper()
	l := &Lab{t: t, dir: t.TempDir(), now: time.Now()}
	made, err := certs.NewAuthority(l.now.AddDate(0, -1, 0), 365, nil)
	Must(t, err)
	l.write("ca.pem", made.Cert)
	l.ca, err = certs.ReadAuthority(l.path("ca.pem"), l.write("ca-key.pem", made.Key), l.now)
	Must(t, err)
	return l
}

func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *Lab) write(name string, b []byte) string {
	l.t.Helper()
	Must(l.t, os.WriteFile(l.path(name), b, 0o600))
	return l.path(name)
}

// Set returns a node's files, made some days ago and valid for a number of days since.
func (l *Lab) Set(node string, ago, days int) *certs.Set {
	l.t.Helper()
	made, err := l.ca.Issue(certs.Request{Node: node, Days: days}, l.now.AddDate(0, 0, -ago))
	Must(l.t, err)
	set, problems := certs.Read(certs.Files{CA: l.path("ca.pem"), Cert: l.write(node+".pem", made.Cert), Key: l.write(node+"-key.pem", made.Key)}, l.now)
	if set == nil {
		l.t.Fatal(problems[0])
	}
	return set
}

// Stranger returns a certificate of the lab's CA, for both ends of a connection, that names no
// node.
func (l *Lab) Stranger() tls.Certificate {
	l.t.Helper()
	made, err := l.ca.Issue(certs.Request{Node: "x", Days: 30}, l.now)
	Must(l.t, err)
	pair, err := tls.X509KeyPair(made.Cert, made.Key)
	Must(l.t, err)
	ca, err := tls.LoadX509KeyPair(l.path("ca.pem"), l.path("ca-key.pem"))
	Must(l.t, err)
	template := *pair.Leaf
	template.DNSNames = []string{"www.example.com"}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Leaf, pair.Leaf.PublicKey, ca.PrivateKey)
	Must(l.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: pair.PrivateKey}
}
