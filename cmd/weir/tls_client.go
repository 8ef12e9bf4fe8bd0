package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config/certs"
)

// transport returns the transport for --ca-file, or nil without that flag.
func (f *clientFlags) transport() (http.RoundTripper, error) {
	path := cmp.Or(f.ca, f.p.getenv("WEIR_CA_FILE"))
	if path == "" {
		return nil, nil
	}
	roots, err := certs.ReadRoots(path)
	if err != nil {
		return nil, fmt.Errorf("--ca-file (WEIR_CA_FILE): %w", err)
	}
	return &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 4,
	}, nil
}

// explainTLS says what to change if TLS is why a node can't be reached. It returns nil for other
// errors.
func explainTLS(addr string, err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var refused *api.Error
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %s is signed by a CA that is not known here: name the CA's certificate (such as the ca.pem of weir tls ca) with --ca-file or WEIR_CA_FILE", addr)
	case errors.As(err, &name):
		return fmt.Errorf("the certificate of %s is for other names (%s): use one of them in --addr, or make one with weir tls cert --dns or --ip", addr, certificateNames(name.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %s has expired, on %s: make a new one, or check this machine's clock", addr, invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid):
		return fmt.Errorf("the certificate of %s is not valid: %w", addr, invalid)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS: use http:// in --addr or WEIR_ADDR", addr)
	case errors.As(err, &refused) && refused.Status == http.StatusBadRequest && strings.Contains(refused.Detail, "HTTP request to an HTTPS"):
		return fmt.Errorf("this port speaks TLS: use https:// in --addr or WEIR_ADDR (%s)", strings.Replace(addr, "http://", "https://", 1))
	}
	return nil
}

func certificateNames(c *x509.Certificate) string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return strings.Join(names, ", ")
}
