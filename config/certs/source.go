package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	pollEvery = 2 * time.Second
	// WarnBefore is how long before its end a certificate is warned about.
	WarnBefore = 14 * 24 * time.Hour
	warnEvery  = 24 * time.Hour
)

// SourceConfig says what a Source keeps.
type SourceConfig struct {
	// Listener is who shows the certificate: "rpc", "api" or "proxy".
	Listener string
	Files    Files
	// Node, where set, is the node whose certificate it must be.
	Node string
	Log  hclog.Logger
}

// Source keeps what one listener's files hold, and takes it anew when they change. What is broken
// is never taken: the last that was good stays. It is safe for concurrent use.
type Source struct {
	cfg     SourceConfig
	current atomic.Pointer[Set]

	mu     sync.Mutex
	taken  raw // what current was made of
	seen   raw // the last that was read
	failed raw // the last that was refused, so that it is told once
	missed int // looks in a row at which they could not be read
	warned time.Time
}

// Open reads the files for the first time. An expired certificate is taken, and told.
func Open(cfg SourceConfig) (*Source, error) {
	s := &Source{cfg: cfg}
	r, problems := cfg.Files.read()
	var set *Set
	if len(problems) == 0 {
		set, problems = s.understand(r)
	}
	if set == nil {
		return nil, fmt.Errorf("the certificate of the %s listener: %w", cfg.Listener, join(problems))
	}
	s.take(set, r)
	s.remind(time.Now())
	return s, nil
}

func join(problems []*Problem) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}

func (s *Source) understand(r raw) (*Set, []*Problem) {
	set, problems := s.cfg.Files.parse(r, time.Now())
	if set != nil && s.cfg.Node != "" {
		if wrong := set.CheckNode(s.cfg.Files, s.cfg.Node); len(wrong) > 0 {
			return nil, wrong
		}
	}
	return set, problems
}

func (s *Source) take(set *Set, r raw) {
	s.current.Store(set)
	s.taken, s.seen, s.failed, s.warned = r, r, raw{}, time.Time{}
}

// Current is what connections that begin now go by.
func (s *Source) Current() *Set { return s.current.Load() }

// GetCertificate is for [tls.Config].
func (s *Source) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &s.Current().Certificate, nil
}

// Read reads the files now; take puts in force what has changed. Broken files are an error, which is
// logged as well.
func (s *Source) Read() (take func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, problems := s.cfg.Files.read()
	if len(problems) > 0 {
		return nil, s.keep(raw{}, problems)
	}
	before := s.Current()
	set, err := s.changed(r)
	if err != nil {
		return nil, err
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.Current() == before { // else a later look has taken what is newer
			s.replace(set, r)
		}
	}, nil
}

// changed returns what r holds, or nil if that is in force already.
func (s *Source) changed(r raw) (*Set, error) {
	if r.equal(s.taken) {
		s.failed = raw{}
		return nil, nil
	}
	set, problems := s.understand(r)
	if set == nil || len(problems) > 0 { // also one that has expired is no replacement
		return nil, s.keep(r, problems)
	}
	return set, nil
}

// replace takes what changed has returned.
func (s *Source) replace(set *Set, r raw) {
	if set == nil {
		return
	}
	s.take(set, r)
	s.cfg.Log.Info("certificate replaced: new connections use it", "listener", s.cfg.Listener, "names", allNames(set.Certificate.Leaf),
		"not_after", date(set.NotAfter))
	s.remind(time.Now())
}

// keep tells, once for each content, that what the files hold is not taken.
func (s *Source) keep(r raw, problems []*Problem) error {
	err := fmt.Errorf("the new certificate of the %s listener is not taken, the old one stays in use: %w", s.cfg.Listener, join(problems))
	if len(r.cert) == 0 || !r.equal(s.failed) {
		s.cfg.Log.Error("the new certificate is not taken, the old one stays in use", "listener", s.cfg.Listener, "error", join(problems))
	}
	s.failed = r
	return err
}

// Run follows the files, and reminds of an end that is near, until the context ends.
func (s *Source) Run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.poll(now)
		}
	}
}

// poll looks at the files once. What can't be read may be about to be replaced, so it is told at
// the second look.
func (s *Source) poll(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remind(now)
	r, problems := s.cfg.Files.read()
	if len(problems) > 0 {
		if s.missed++; s.missed == 2 {
			_ = s.keep(raw{}, problems)
		}
		return
	}
	s.missed = 0
	still := r.equal(s.seen)
	s.seen = r
	if still && !r.equal(s.failed) {
		set, _ := s.changed(r) // the error has been logged
		s.replace(set, r)
	}
}

// remind warns once a day of a certificate that ends soon.
func (s *Source) remind(now time.Time) {
	end := s.Current().NotAfter
	if now.Before(end.Add(-WarnBefore)) || now.Sub(s.warned) < warnEvery {
		return
	}
	s.warned = now
	left := end.Sub(now).Round(time.Hour)
	if left <= 0 {
		s.cfg.Log.Error("certificate has expired: put a new one in its place, it is taken without a restart",
			"listener", s.cfg.Listener, "file", s.cfg.Files.Cert, "not_after", date(end))
		return
	}
	s.cfg.Log.Warn("certificate expires soon: put a new one in its place, it is taken without a restart",
		"listener", s.cfg.Listener, "file", s.cfg.Files.Cert, "not_after", date(end), "left", left.String())
}

// ServerConfig is a configuration for a listener whose clients show no certificate: TLS 1.2 and
// later.
func (s *Source) ServerConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.GetCertificate}
}

// ReadRoots reads a file of CAs that a client trusts.
func ReadRoots(path string) (*x509.CertPool, error) {
	src, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("%q can't be read: %s", path, Reason(err))
	}
	all, what := certificates(src)
	if what != "" {
		return nil, fmt.Errorf("%q %s: it is the ca.pem that weir tls ca makes", path, what)
	}
	pool := x509.NewCertPool()
	for _, c := range all {
		pool.AddCert(c)
	}
	return pool, nil
}
