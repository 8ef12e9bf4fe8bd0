package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// lab is a directory with a CA and what it has signed.
type lab struct {
	t   *testing.T
	dir string
	ca  *Authority
}

func newLab(t *testing.T, now time.Time, days int, domains ...string) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	made, err := NewAuthority(now, days, domains)
	if err != nil {
		t.Fatal(err)
	}
	l.write("ca.pem", made.Cert)
	l.write("ca-key.pem", made.Key)
	if l.ca, err = ReadAuthority(l.path("ca.pem"), l.path("ca-key.pem"), now); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(name string, b []byte) string {
	l.t.Helper()
	if err := os.WriteFile(l.path(name), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return l.path(name)
}

// node makes a node's files.
func (l *lab) node(name string, now time.Time, days int) Files {
	l.t.Helper()
	made, err := l.ca.Issue(Request{Node: name, Days: days}, now)
	if err != nil {
		l.t.Fatal(err)
	}
	return Files{CA: l.path("ca.pem"), Cert: l.write(name+".pem", made.Cert), Key: l.write(name+"-key.pem", made.Key)}
}

func TestRead(t *testing.T) {
	l := newLab(t, noon, 3650)
	good := l.node("a", noon, 365)
	set, problems := Read(good, noon)
	if len(problems) > 0 || set == nil {
		t.Fatal(problems)
	}
	if want := noon.AddDate(0, 0, 365); !set.NotAfter.Equal(want) {
		t.Errorf("it ends %v; want %v", set.NotAfter, want)
	}
	if problems := set.CheckNode(good, "a"); len(problems) > 0 {
		t.Error(problems[0])
	}
	if set, problems := Read(Files{Cert: good.Cert, Key: good.Key}, noon); set == nil || set.Roots != nil || len(problems) > 0 {
		t.Errorf("without a CA: %+v, %v", set, problems)
	}

	other := newLab(t, noon, 3650).node("a", noon, 365)
	l2 := newLab(t, noon, 10)
	short := l2.node("b", noon, 365)
	for name, test := range map[string]struct {
		files   Files
		now     time.Time
		file    string
		says    string
		expired bool
	}{
		"no file":          {Files{CA: good.CA, Cert: l.path("none"), Key: good.Key}, noon, CertFile, "no such file", false},
		"empty":            {Files{CA: good.CA, Cert: good.Cert, Key: l.write("empty", nil)}, noon, KeyFile, "it is empty", false},
		"a directory":      {Files{CA: l.dir, Cert: good.Cert, Key: good.Key}, noon, CAFile, "is a directory", false},
		"text":             {Files{CA: good.CA, Cert: l.write("text", []byte("hello")), Key: good.Key}, noon, CertFile, "holds no certificate", false},
		"key for cert":     {Files{CA: good.CA, Cert: good.Key, Key: good.Key}, noon, CertFile, "holds a private key and no certificate", false},
		"cert for key":     {Files{CA: good.CA, Cert: good.Cert, Key: good.Cert}, noon, KeyFile, "can't be used", false},
		"another's key":    {Files{CA: good.CA, Cert: good.Cert, Key: other.Key}, noon, KeyFile, "is not the key of the certificate", false},
		"another CA":       {Files{CA: other.CA, Cert: good.Cert, Key: good.Key}, noon, CertFile, "is not signed by a CA in ca_file", false},
		"no CA":            {Files{CA: good.Cert, Cert: good.Cert, Key: good.Key}, noon, CAFile, "is not a CA's", false},
		"expired":          {good, noon.AddDate(1, 1, 0), CertFile, "has expired on 2031-06-01 12:00 UTC", true},
		"not yet":          {good, noon.AddDate(0, 0, -1), CertFile, "is not valid before 2030-06-01 11:00 UTC", true},
		"the CA's end":     {short, noon.AddDate(0, 0, 11), CertFile, "has expired", true},
		"expired, no CA":   {Files{Cert: good.Cert, Key: good.Key}, noon.AddDate(2, 0, 0), CertFile, "has expired", true},
		"damaged":          {Files{CA: good.CA, Cert: l.write("damaged", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 1}})), Key: good.Key}, noon, CertFile, "can't be understood", false},
		"with passphrase":  {Files{Cert: good.Cert, Key: l.write("enc", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}))}, noon, KeyFile, "is encrypted with a passphrase", false},
		"no key in key":    {Files{Cert: good.Cert, Key: l.path("text")}, noon, KeyFile, "holds no private key", false},
		"longer than 1 MB": {Files{Cert: good.Cert, Key: l.write("long", make([]byte, maxFileBytes+1))}, noon, KeyFile, "is longer than", false},
	} {
		t.Run(name, func(t *testing.T) {
			set, problems := Read(test.files, test.now)
			if len(problems) == 0 {
				t.Fatal("no problem")
			}
			p := problems[0]
			if p.File != test.file || !strings.Contains(p.What, test.says) || p.Expired != test.expired || p.Hint == "" {
				t.Errorf("%+v; want %s, %q", p, test.file, test.says)
			}
			if (set != nil) != test.expired {
				t.Errorf("the set is %v", set)
			}
			if test.expired && test.now.After(noon) && !set.NotAfter.Before(test.now) {
				t.Errorf("it ends %v, and it is %v", set.NotAfter, test.now)
			}
		})
	}
}

// TestUsage: a certificate that is only a server's is none for a node, and fine for a listener
// without a CA.
func TestUsage(t *testing.T) {
	l := newLab(t, noon, 100)
	key := l.node("a", noon, 10)
	block, _ := pem.Decode(must(os.ReadFile(key.Cert)))
	template := must(x509.ParseCertificate(block.Bytes))
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der := must(x509.CreateCertificate(nil, template, l.ca.cert, template.PublicKey, l.ca.key))
	f := Files{CA: key.CA, Cert: l.write("server.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Key: key.Key}
	if _, problems := Read(f, noon); len(problems) != 1 || !strings.Contains(problems[0].What, "not for both ends") {
		t.Errorf("%v", problems)
	}
	f.CA = ""
	if _, problems := Read(f, noon); len(problems) != 0 {
		t.Errorf("%v", problems)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestCheckNode(t *testing.T) {
	l := newLab(t, noon, 100)
	f := l.node("a", noon, 10)
	set, _ := Read(f, noon)
	for node, want := range map[string]string{"a": "", "A": "", "b": "does not name b.node.weir: it names a.node.weir, node.weir, localhost, 127.0.0.1, ::1"} {
		problems := set.CheckNode(f, node)
		if (len(problems) == 0) != (want == "") || want != "" && problems[0].What != want {
			t.Errorf("%s: %v; want %q", node, problems, want)
		}
	}
}

// TestIntermediate: a chain of a CA that others have made, where the certificate's file holds what
// is between.
func TestIntermediate(t *testing.T) {
	l := newLab(t, noon, 3650)
	root, rootKey := selfSigned(t, noon, 1)
	between := must(x509.CreateCertificate(nil, func() *x509.Certificate {
		c := *l.ca.cert
		c.NotAfter = noon.AddDate(0, 0, 5)
		return &c
	}(), root, l.ca.cert.PublicKey, rootKey))
	f := l.node("a", noon, 30)
	leaf := must(os.ReadFile(f.Cert))
	f.Cert = l.write("chain.pem", append(leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: between})...))
	f.CA = l.write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	set, problems := Read(f, noon)
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	if want := noon.AddDate(0, 0, 5); !set.NotAfter.Equal(want) {
		t.Errorf("the chain ends %v; want the one between's end, %v", set.NotAfter, want)
	}
	// While one CA replaces another, the chain that holds longest counts.
	f.CA = l.write("both.pem", bytes.Join([][]byte{must(os.ReadFile(f.CA)), must(os.ReadFile(l.path("ca.pem")))}, nil))
	if set, problems = Read(f, noon); len(problems) > 0 || !set.NotAfter.Equal(noon.AddDate(0, 0, 30)) {
		t.Errorf("with both CAs: %v, %v", set, problems)
	}
}

func TestAuthority(t *testing.T) {
	l := newLab(t, noon, 100)
	f := l.node("a", noon, 365)
	if set, _ := Read(f, noon); !set.NotAfter.Equal(noon.AddDate(0, 0, 100)) {
		t.Errorf("a certificate outlives its CA: %v", set.NotAfter)
	}
	if !l.ca.cert.MaxPathLenZero || !l.ca.cert.IsCA || l.ca.cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("the CA may more than it should: %+v", l.ca.cert)
	}
	for _, node := range []string{"a", "Node_1.eu", "-a", "a..b", "."} { // whatever a node may be called
		files := l.node(node, noon, 1)
		set, problems := Read(files, noon)
		if len(problems) > 0 {
			t.Fatal(node, problems[0])
		}
		if problems := set.CheckNode(files, node); len(problems) > 0 {
			t.Error(node, problems[0])
		}
	}
	if _, err := l.ca.Issue(Request{Node: "a", Days: 1, DNS: []string{"bücher.example"}}, noon); err == nil {
		t.Error("a name that no certificate can carry")
	}
	made, err := l.ca.Issue(Request{Node: "a", Days: 1, DNS: []string{"weir.example.com"}, IPs: []net.IP{net.ParseIP("10.0.0.1")}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(made.Cert)
	leaf := must(x509.ParseCertificate(block.Bytes))
	for _, name := range []string{"weir.example.com", "10.0.0.1", "localhost", "127.0.0.1", "::1", "a.node.weir", "node.weir"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if leaf.VerifyHostname("b.node.weir") == nil {
		t.Error("it is valid for another node")
	}
	if _, err := ReadAuthority(f.Cert, f.Key, noon); err == nil || !strings.Contains(err.Error(), "is not a CA's") {
		t.Errorf("a node's certificate as a CA: %v", err)
	}
	if _, err := ReadAuthority(l.path("ca.pem"), f.Key, noon); err == nil || !strings.Contains(err.Error(), "not the key") {
		t.Errorf("another key for the CA: %v", err)
	}
}

func TestAuthorityRestricted(t *testing.T) {
	l := newLab(t, noon, 100, "example.com")
	for name, good := range map[string]bool{"weir.example.com": true, "example.com": true, "bank.example": false} {
		if _, err := l.ca.Issue(Request{Node: "a", Days: 1, DNS: []string{name}}, noon); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && !strings.Contains(err.Error(), "restricted to [node.weir localhost example.com]") {
			t.Error(err)
		}
	}
}

// TestOpenSSL: another implementation agrees.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Log("openssl is not here: crypto/x509 alone has checked the certificates")
		return
	}
	for _, domains := range [][]string{nil, {"example.com"}} {
		now := time.Now()
		l := newLab(t, now, 100, domains...)
		f := l.node("a", now, 10)
		for _, args := range [][]string{
			{"verify", "-x509_strict", "-CAfile", f.CA, "-purpose", "sslserver", "-verify_hostname", "a.node.weir", f.Cert},
			{"verify", "-x509_strict", "-CAfile", f.CA, "-purpose", "sslclient", "-verify_ip", "127.0.0.1", f.Cert},
		} {
			if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
				t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	made, err := NewAuthority(noon, 10, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made.Cert, made.Cert, made.Key)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte{}, []byte("x"))
	f.Add(made.Key, append(made.Key, made.Cert...), made.Cert)
	files := Files{CA: "ca", Cert: "cert", Key: "key"}
	f.Fuzz(func(t *testing.T, ca, cert, key []byte) {
		set, problems := files.parse(raw{ca, cert, key}, noon)
		if set == nil && len(problems) == 0 {
			t.Fatal("neither a set nor a problem")
		}
		for _, p := range problems {
			if strings.ContainsAny(p.What, "\n") || p.File == "" || p.Hint == "" {
				t.Errorf("%+v", p)
			}
			if set != nil && !p.Expired {
				t.Errorf("a set in spite of %v", p)
			}
		}
	})
}
