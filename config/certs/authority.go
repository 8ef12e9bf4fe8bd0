package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// How far back a certificate is valid: the clocks of the machines differ a little.
const backdated = time.Hour

// Authority is a private CA.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// PEM is a certificate and its private key as they are written to files.
type PEM struct {
	Cert, Key []byte
	NotAfter  time.Time
}

// NewAuthority makes a CA for a cluster: ECDSA P-256, which every client takes, and not allowed to
// sign other CAs. With domains, what it signs is valid for names in them, nodes' own and localhost
// alone, so that it may be trusted by browsers without the power over every other site. Addresses
// are not restricted.
func NewAuthority(now time.Time, days int, domains []string) (PEM, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PEM{}, err
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial,
		// A name of its own, so that two CAs of one cluster can be told apart while one replaces
		// the other.
		Subject:               pkix.Name{CommonName: "weir CA " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(0, 0, days),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	if len(domains) > 0 {
		template.PermittedDNSDomainsCritical = true
		template.PermittedDNSDomains = append([]string{ClusterName, "localhost"}, domains...)
	}
	return sign(template, template, key, key)
}

// newSerial is a random serial number of 127 bits (RFC 5280, section 4.1.2.2), never short.
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: it stops the program instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// ReadAuthority reads a CA that NewAuthority has made, or any other of which the key is at hand.
func ReadAuthority(certPath, keyPath string, now time.Time) (*Authority, error) {
	files := Files{Cert: certPath, Key: keyPath}
	r, problems := files.read()
	if len(problems) > 0 {
		return nil, asCA(problems[0])
	}
	set, problems := files.parse(r, now)
	if len(problems) > 0 {
		return nil, asCA(problems[0])
	}
	leaf := set.Certificate.Leaf
	if _, what := onlyCAs([]*x509.Certificate{leaf}); what != "" {
		return nil, fmt.Errorf("the CA's certificate %q %s: weir tls ca makes one", certPath, what)
	}
	key, ok := set.Certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the CA's key %q can't sign", keyPath)
	}
	return &Authority{cert: leaf, key: key}, nil
}

// asCA says of a CA's file what is wrong with it.
func asCA(p *Problem) error {
	what := map[string]string{CertFile: "certificate", KeyFile: "key"}[p.File]
	return fmt.Errorf("the CA's %s %q %s: make a CA with weir tls ca, or say where it is", what, p.Path, p.What)
}

// Request says for whom a certificate is.
type Request struct {
	Node string   // the node's name
	DNS  []string // further names, for the API and proxy listeners
	IPs  []net.IP // and addresses
	Days int      // how long it is valid; never longer than the CA
}

// Issue makes a node's certificate: for both ends of the rpc port, for localhost, and for the names
// and addresses asked for.
func (a *Authority) Issue(q Request, now time.Time) (PEM, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PEM{}, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: NodeName(q.Node)},
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.AddDate(0, 0, q.Days),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     append([]string{NodeName(q.Node), ClusterName, "localhost"}, q.DNS...),
		IPAddresses:  append([]net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}, q.IPs...),

		BasicConstraintsValid: true,
	}
	if a.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	out, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return PEM{}, err
	}
	return out, a.check(out, q, now)
}

// check refuses to hand out what a node would not take, such as a name that the CA may not sign or
// that no certificate can carry.
func (a *Authority) check(out PEM, q Request, now time.Time) error {
	pair, err := tls.X509KeyPair(out.Cert, out.Key)
	if err != nil {
		return fmt.Errorf("no certificate can be made for %q: %w", q.Node, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, name := range pair.Leaf.DNSNames {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			DNSName: name, Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName {
			return fmt.Errorf("this CA may not sign the names asked for: it is restricted to %v", a.cert.PermittedDNSDomains)
		}
		if err != nil {
			return fmt.Errorf("%q can't be in a certificate: %w", name, err)
		}
	}
	return nil
}

func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer) (PEM, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return PEM{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return PEM{}, err
	}
	return PEM{
		Cert:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		NotAfter: template.NotAfter,
	}, nil
}
