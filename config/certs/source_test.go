package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

func selfSigned(t *testing.T, now time.Time, pathLen int) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: pathLen,
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)))), key
}

// notes is a log that is read while it is written.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

// TestSourceFollowsFiles: a replaced pair is taken once both files are there, a broken one never,
// and each is told once.
func TestSourceFollowsFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Now(), 1000)
		f := l.node("a", time.Now(), 365)
		log := &notes{}
		s, err := Open(SourceConfig{Listener: "rpc", Files: f, Node: "a", Log: hclog.New(&hclog.LoggerOptions{Output: log})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		defer func() { cancel(); <-done }()
		said := func(what string, times int) {
			t.Helper()
			if got := strings.Count(log.String(), what); got != times {
				t.Errorf("%q is said %d times; want %d:\n%s", what, got, times, log)
			}
		}
		first := s.Current()
		looks := func(n int) { time.Sleep(time.Duration(n)*pollEvery + time.Millisecond); synctest.Wait() }

		oldKey := must(os.ReadFile(f.Key))
		l.node("a", time.Now(), 300)
		newKey := must(os.ReadFile(f.Key))
		l.write("a-key.pem", oldKey) // the key is written later
		looks(1)
		l.write("a-key.pem", newKey)
		looks(3)
		second := s.Current()
		if second == first || second.NotAfter.Equal(first.NotAfter) {
			t.Fatal("the new pair is not taken")
		}
		said("certificate replaced", 1)
		said("is not taken", 0)

		l.write("a-key.pem", oldKey)
		looks(10)
		if s.Current() != second {
			t.Error("a broken pair is taken")
		}
		said("the new certificate is not taken, the old one stays in use: listener=rpc", 1)
		if _, err := s.Read(); err == nil || !strings.Contains(err.Error(), "is not the key") {
			t.Errorf("a reload with a broken pair: %v", err)
		}
		said("is not taken", 1)

		if err := os.Remove(f.Cert); err != nil {
			t.Fatal(err)
		}
		looks(10)
		said("can't be read", 1)

		l.node("b", time.Now(), 300)
		l.write("a.pem", must(os.ReadFile(l.path("b.pem"))))
		l.write("a-key.pem", must(os.ReadFile(l.path("b-key.pem"))))
		looks(3)
		said("does not name a.node.weir", 1)
		if s.Current() != second {
			t.Error("another node's certificate is taken")
		}

		l.node("a", time.Now(), 200)
		take, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if s.Current() != second {
			t.Error("a new pair is taken before a reload puts it in force")
		}
		take()
		third := s.Current()
		if third == second {
			t.Error("a reload does not take the new pair")
		}
		said("certificate replaced", 2)

		l.node("a", time.Now(), 250)
		if take, err = s.Read(); err != nil {
			t.Fatal(err)
		}
		l.node("a", time.Now(), 260)
		looks(3)
		newest := s.Current()
		if take(); newest == third || s.Current() != newest {
			t.Error("a reload takes a pair that was replaced meanwhile")
		}
	})
}

// TestSourceReminds: once a day from fourteen days before the end.
func TestSourceReminds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Now(), 1000)
		f := l.node("a", time.Now(), 20)
		var log bytes.Buffer
		s, err := Open(SourceConfig{Listener: "api", Files: f, Log: hclog.New(&hclog.LoggerOptions{Output: &log})})
		if err != nil {
			t.Fatal(err)
		}
		reminders := func(at time.Duration) int {
			log.Reset()
			for now := time.Now(); now.Before(time.Now().Add(at)); now = now.Add(time.Hour) {
				s.poll(now)
			}
			return strings.Count(log.String(), "certificate expires soon")
		}
		if got := reminders(5 * 24 * time.Hour); got != 0 {
			t.Errorf("%d reminders in the first days", got)
		}
		if got := reminders(9*24*time.Hour + time.Hour); got != 4 {
			t.Errorf("%d reminders on days 6 to 9; want 4:\n%s", got, &log)
		}
		s.poll(time.Now().AddDate(0, 0, 21))
		if !strings.Contains(log.String(), "[ERROR] certificate has expired") {
			t.Errorf("an expired one is not told:\n%s", &log)
		}
		if _, err := Open(SourceConfig{Listener: "api", Files: Files{Cert: "none", Key: f.Key}, Log: hclog.NewNullLogger()}); err == nil {
			t.Error("a source without a certificate")
		}
	})
}

// TestSourceTakesExpired: a node starts with what it has.
func TestSourceTakesExpired(t *testing.T) {
	l := newLab(t, time.Now().AddDate(0, 0, -30), 1000)
	f := l.node("a", time.Now().AddDate(0, 0, -30), 10)
	var log bytes.Buffer
	s, err := Open(SourceConfig{Listener: "rpc", Files: f, Node: "a", Log: hclog.New(&hclog.LoggerOptions{Output: &log})})
	if err != nil || s.Current() == nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "has expired") {
		t.Errorf("it is not told:\n%s", &log)
	}
}
