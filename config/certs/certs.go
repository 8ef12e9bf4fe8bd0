package certs

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const maxFileBytes = 1 << 20 // of one PEM file: some hundred certificates

// ClusterName is the DNS name that the certificate of every node carries, whichever node it is.
const ClusterName = "node.weir"

// NodeName is the DNS name by which a certificate says which node it belongs to.
func NodeName(node string) string { return node + "." + ClusterName }

// Files names one listener's PEM files.
type Files struct {
	CA   string // the CAs that sign the peers' certificates; "": peers show none
	Cert string // the certificate, and those between it and the CA
	Key  string // its private key
}

// The files, as a config names them.
const (
	CAFile   = "ca_file"
	CertFile = "cert_file"
	KeyFile  = "key_file"
)

// Problem is what is wrong with one file.
type Problem struct {
	File    string // CAFile, CertFile or KeyFile
	Path    string
	What    string // a sentence without its subject, which is the file
	Hint    string // what to do
	Expired bool   // nothing is wrong but that the time has passed
}

// Error implements error.
func (p *Problem) Error() string { return fmt.Sprintf("%s %q %s: %s", p.File, p.Path, p.What, p.Hint) }

// Set is what one listener's files hold.
type Set struct {
	Certificate tls.Certificate // with its Leaf
	Roots       *x509.CertPool  // nil without a CA file
	// NotAfter is when the first certificate ends of those that the listener's depends on, the CA's
	// included where it is known.
	NotAfter time.Time
}

// raw is what the files say, not yet understood.
type raw struct{ ca, cert, key []byte }

func (r raw) equal(o raw) bool {
	return bytes.Equal(r.ca, o.ca) && bytes.Equal(r.cert, o.cert) && bytes.Equal(r.key, o.key)
}

// Read reads the files and checks all that can be judged without knowing whose they are: that key
// and certificate belong together, and, where there is a CA file, that a CA in it has signed the
// certificate for both ends of a connection. The Set is nil where there are problems other than
// Expired ones.
func Read(f Files, now time.Time) (*Set, []*Problem) {
	r, problems := f.read()
	if len(problems) > 0 {
		return nil, problems
	}
	return f.parse(r, now)
}

func (f Files) read() (r raw, problems []*Problem) {
	for _, file := range []struct {
		name, path string
		to         *[]byte
	}{{CAFile, f.CA, &r.ca}, {CertFile, f.Cert, &r.cert}, {KeyFile, f.Key, &r.key}} {
		if file.path == "" && file.name == CAFile {
			continue
		}
		b, err := readPEM(file.path)
		if err != nil {
			problems = append(problems, &Problem{
				File: file.name, Path: file.path, What: "can't be read: " + Reason(err), Hint: "Relative paths start at weir's working directory.",
			})
		}
		*file.to = b
	}
	return r, problems
}

// readPEM reads one of the files, which is never empty.
func readPEM(path string) ([]byte, error) {
	b, err := ReadFile(path, maxFileBytes)
	if err == nil && len(b) == 0 {
		return nil, errors.New("it is empty")
	}
	return b, err
}

// ReadFile reads a file that a config names, of at most limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return b, err
}

// Reason is the text of an error of ReadFile without the file's name, which is shown beside it.
func Reason(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func (f Files) parse(r raw, now time.Time) (*Set, []*Problem) {
	var problems []*Problem
	found := func(file, path, what, hint string) {
		problems = append(problems, &Problem{File: file, Path: path, What: what, Hint: hint})
	}
	var roots []*x509.Certificate
	if f.CA != "" {
		cas, what := certificates(r.ca)
		if what == "" {
			roots, what = onlyCAs(cas)
		}
		if what != "" {
			found(CAFile, f.CA, what, "It is the ca.pem that weir tls ca makes.")
		}
	}
	chain, what := certificates(r.cert)
	if what != "" {
		found(CertFile, f.Cert, what, "It is the certificate in PEM, such as weir tls cert makes.")
		return nil, problems
	}
	pair, err := tls.X509KeyPair(r.cert, r.key)
	if err != nil {
		what, hint := keyProblem(r.key, err)
		found(KeyFile, f.Key, what, hint)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	set := &Set{Certificate: pair, NotAfter: soonest(chain)}
	set.Certificate.Leaf = chain[0]
	if f.CA != "" {
		set.Roots = x509.NewCertPool()
		for _, ca := range roots {
			set.Roots.AddCert(ca)
		}
		problems = set.verify(f, chain, now)
	} else if p := f.outOfTime(chain[0], now); p != nil {
		problems = append(problems, p)
	}
	if slices.ContainsFunc(problems, func(p *Problem) bool { return !p.Expired }) {
		return nil, problems
	}
	return set, problems
}

// certificates reads every certificate of a PEM file; what says why there is none.
func certificates(src []byte) (found []*x509.Certificate, what string) {
	hasKey := false
	for len(src) > 0 {
		var block *pem.Block
		if block, src = pem.Decode(src); block == nil {
			break
		}
		hasKey = hasKey || strings.HasSuffix(block.Type, "PRIVATE KEY")
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "holds a certificate that can't be understood: " + strings.TrimPrefix(err.Error(), "x509: ")
		}
		found = append(found, c)
	}
	switch {
	case len(found) == 0 && hasKey:
		return nil, "holds a private key and no certificate"
	case len(found) == 0:
		return nil, "holds no certificate"
	}
	return found, ""
}

// onlyCAs refuses what could not sign anything.
func onlyCAs(all []*x509.Certificate) ([]*x509.Certificate, string) {
	for _, c := range all {
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, fmt.Sprintf("holds a certificate that is not a CA's (%s)", nameOf(c))
		}
	}
	return all, ""
}

// nameOf is how a certificate is called in a message.
func nameOf(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return cmp.Or(c.Subject.CommonName, "serial number "+c.SerialNumber.Text(16))
}

// keyProblem says in our words what crypto/tls says of a key.
func keyProblem(key []byte, err error) (what, hint string) {
	block, _ := pem.Decode(key)
	switch {
	case block == nil:
		return "holds no private key", "It is the key in PEM, such as weir tls cert makes."
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return "is encrypted with a passphrase", "Decrypt it (openssl pkey -in KEY -out PLAIN) and give it mode 0600: nobody is there to type the passphrase."
	case strings.Contains(err.Error(), "does not match"):
		return "is not the key of the certificate in cert_file", "Take the two that were made together."
	}
	return "can't be used: " + strings.TrimPrefix(err.Error(), "tls: "), "It is the key in PEM, such as weir tls cert makes."
}

// verify checks that a CA has signed the certificate, for servers and for clients, and notes until
// when that holds.
func (s *Set) verify(f Files, chain []*x509.Certificate, now time.Time) []*Problem {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		chains, err := chain[0].Verify(x509.VerifyOptions{
			Roots: s.Roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			var invalid x509.CertificateInvalidError
			if errors.As(err, &invalid) && invalid.Cert.NotAfter.Before(s.NotAfter) {
				s.NotAfter = invalid.Cert.NotAfter
			}
			return []*Problem{f.refused(err, now)}
		}
		s.NotAfter = lasting(chains)
	}
	return nil
}

// refused says in our words why a certificate does not verify.
func (f Files) refused(err error, now time.Time) *Problem {
	p := &Problem{File: CertFile, Path: f.Cert}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if late := f.outOfTime(invalid.Cert, now); late != nil {
			return late
		}
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		p.What = "is not for both ends of a connection: nodes dial and are dialled"
		p.Hint = "Make one with extended key usage serverAuth and clientAuth, as weir tls cert does."
		return p
	case errors.As(err, &unknown):
		p.What, p.Hint = "is not signed by a CA in ca_file", "Take a certificate and a CA that belong together; weir tls cert signs one."
		return p
	}
	p.What, p.Hint = "is not valid: "+strings.TrimPrefix(err.Error(), "x509: "), "Make another; weir tls cert does."
	return p
}

// outOfTime reports a certificate that has expired, or is not valid yet.
func (f Files) outOfTime(c *x509.Certificate, now time.Time) *Problem {
	p := &Problem{File: CertFile, Path: f.Cert, Expired: true, Hint: "Make a new one; it is taken without a restart."}
	if c.IsCA && f.CA != "" {
		p.File, p.Path = CAFile, f.CA
		p.Hint = "Make a new CA and new certificates, and add it to the file on every node first."
	}
	switch {
	case now.After(c.NotAfter):
		p.What = fmt.Sprintf("has expired on %s (%s)", date(c.NotAfter), nameOf(c))
	case now.Before(c.NotBefore):
		p.What = fmt.Sprintf("is not valid before %s (%s)", date(c.NotBefore), nameOf(c))
		p.Hint = "Check the clock of this machine and of the one that made the certificate."
	default:
		return nil
	}
	return p
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// CheckNode checks that a certificate is that of a node of a cluster, and of which.
func (s *Set) CheckNode(f Files, node string) []*Problem {
	leaf := s.Certificate.Leaf
	for _, name := range []string{ClusterName, NodeName(node)} {
		if leaf.VerifyHostname(name) != nil {
			return []*Problem{{
				File: CertFile, Path: f.Cert, What: fmt.Sprintf("does not name %s: it names %s", name, allNames(leaf)),
				Hint: fmt.Sprintf("Make this node's with weir tls cert %s: it has the DNS names %s and %s.", node, ClusterName, NodeName(node)),
			}}
		}
	}
	return nil
}

// allNames lists what a certificate is for.
func allNames(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	const most = 8
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return cmp.Or(strings.Join(names, ", "), "nothing")
}

// soonest is when the first of some certificates ends.
func soonest(chain []*x509.Certificate) time.Time {
	first := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// lasting is when the chain ends that holds longest.
func lasting(chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		if end := soonest(chain); end.After(last) {
			last = end
		}
	}
	return last
}
