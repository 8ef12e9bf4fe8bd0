package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/config/certs"
)

const (
	caDays      = 3650
	certDays    = 365
	maxCertDays = 36500
	secretMode  = 0o600
	publicMode  = 0o644
)

// newTLSCommand is weir tls: a private CA, and certificates of it.
func newTLSCommand() *cobra.Command {
	cmd := newGroup("tls", "Make a private CA and node certificates")
	cmd.Long = `Make a private CA for a cluster, and the certificates of its nodes, as PEM files.

Keep ca-key.pem away from the nodes: anyone who has it can create a node. A node needs ca.pem, NAME.pem and NAME-key.pem.`
	cmd.AddCommand(newTLSCACommand(), newTLSCertCommand())
	return cmd
}

// made holds the flags of commands that write certificates.
type made struct {
	dir   string
	days  int
	force bool
}

func (m *made) flags(cmd *cobra.Command, days int) {
	cmd.Flags().StringVar(&m.dir, "out", ".", "the `directory` to write to")
	cmd.Flags().IntVar(&m.days, "days", days, "the `number` of days until it expires")
	cmd.Flags().BoolVar(&m.force, "force", false, "replace existing files")
}

func (m *made) check(cmd *cobra.Command) error {
	if m.days < 1 || m.days > maxCertDays {
		return usagef(cmd, "--days is a number from 1 to %d", maxCertDays)
	}
	return nil
}

func newTLSCACommand() *cobra.Command {
	var m made
	var domains []string
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make a private CA",
		Long: `Make a private CA for a cluster: ca.pem, which every node and client needs, and ca-key.pem, which is needed only to sign
certificates. Use a CA for one cluster only: every node certificate that it has signed is accepted as one of the cluster's.

With --domain, its certificates are valid only for names in the given domains, nodes' own names and localhost, so that a
browser can trust it without trusting it for every site.`,
		Example: `  weir tls ca
  weir tls ca --out /root/weir-ca --domain example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			ca, err := certs.NewAuthority(time.Now(), m.days, domains)
			if err != nil {
				return err
			}
			cert, key, err := m.write("ca", ca)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  the CA's certificate, valid until %s: copy it to every node and client\n"+
				"%s  its key: keep it off the nodes, and back it up\n", cert, ca.NotAfter.UTC().Format(time.DateOnly), key)
			return err
		},
	}
	m.flags(cmd, caDays)
	cmd.Flags().StringArrayVar(&domains, "domain", nil, "restrict the CA to names in a `domain`; may be repeated")
	return cmd
}

func newTLSCertCommand() *cobra.Command {
	var m made
	var q certs.Request
	var ca, caKey string
	cmd := &cobra.Command{
		Use:   "cert NAME",
		Short: "Make a node's certificate",
		Long: `Make the certificate of the node NAME, signed by the CA of weir tls ca: NAME.pem and NAME-key.pem.

It is for the node's rpc port (DNS names NAME.node.weir and node.weir), and serves its API and proxy listeners too: it is
valid for localhost, 127.0.0.1 and ::1, and for the names and addresses of --dns and --ip. A node loads a new one without a restart.`,
		Example: `  weir tls cert a --ip 10.0.0.1
  weir tls cert b --dns weir-b.example.com --ip 10.0.0.2 --days 90 --out certs --ca certs/ca.pem --ca-key certs/ca-key.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			q.Node, q.Days = args[0], m.days
			if !config.UsableName(q.Node) {
				return usagef(cmd, "%q can't be a node's name: it has 1 to 63 letters, digits, dots, underscores and hyphens", q.Node)
			}
			return makeCert(cmd, &m, q, ca, caKey)
		},
	}
	m.flags(cmd, certDays)
	cmd.Flags().StringVar(&ca, "ca", "", "the CA's certificate `file` (default ca.pem in --out)")
	cmd.Flags().StringVar(&caKey, "ca-key", "", "the CA's key `file` (default ca-key.pem beside --ca)")
	cmd.Flags().StringArrayVar(&q.DNS, "dns", nil, "a further DNS `name`, for the API and proxy listeners; may be repeated")
	cmd.Flags().IPSliceVar(&q.IPs, "ip", nil, "a further `address`; may be repeated")
	return cmd
}

func makeCert(cmd *cobra.Command, m *made, q certs.Request, ca, caKey string) error {
	if ca == "" {
		ca = filepath.Join(m.dir, "ca.pem")
	}
	if caKey == "" {
		caKey = filepath.Join(filepath.Dir(ca), "ca-key.pem")
	}
	authority, err := certs.ReadAuthority(ca, caKey, time.Now())
	if err != nil {
		return err
	}
	if err := m.checkNode(q.Node, ca, caKey); err != nil {
		return err
	}
	out, err := authority.Issue(q, time.Now())
	if err != nil {
		return err
	}
	cert, key, err := m.write(q.Node, out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `%[1]s  the certificate of node %[4]q, valid until %[5]s
%[2]s  its key

For the rpc port, in the node's config:

cluster {
  tls {
    ca_file   = %[3]q
    cert_file = %[1]q
    key_file  = %[2]q
  }
}

For the API, and likewise for the proxy:

api {
  tls {
    cert_file = %[1]q
    key_file  = %[2]q
  }
}
`, cert, key, absolute(ca), q.Node, out.NotAfter.UTC().Format(time.DateOnly))
	return err
}

// checkNode refuses a node's name whose files are others': the CA's, or another node's. --force is
// for a node's own files.
func (m *made) checkNode(name, ca, caKey string) error {
	cert, key := m.paths(name)
	for _, out := range []string{cert, key} {
		for _, its := range []string{ca, caKey} {
			if sameFile(out, its) {
				return fmt.Errorf("the files of a node %q would replace the CA's %s, and nothing was written: choose another directory with --out, or another name", name, out)
			}
		}
	}
	// NAME.pem of the node x-key is NAME-key.pem of the node x.
	other, isKey := strings.CutSuffix(name, "-key")
	if its, _ := m.paths(other); isKey && exists(its) {
		return fmt.Errorf("%s would be both the certificate of %q and the key of %q, and nothing was written: choose another directory with --out, or another name", cert, name, other)
	}
	if _, its := m.paths(name + "-key"); exists(its) {
		return fmt.Errorf("%s would be both the key of %q and the certificate of %q, and nothing was written: choose another directory with --out, or another name", key, name, name+"-key")
	}
	return nil
}

// sameFile also finds a file under another path.
func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// paths are those of a certificate and its key.
func (m *made) paths(name string) (cert, key string) {
	return absolute(filepath.Join(m.dir, name+".pem")), absolute(filepath.Join(m.dir, name+"-key.pem"))
}

// write writes a certificate and its key, and returns their paths. Without force it fails if either
// exists, and changes neither.
func (m *made) write(name string, p certs.PEM) (cert, key string, err error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return "", "", fmt.Errorf("can't make the directory: %w", err)
	}
	cert, key = m.paths(name)
	for _, path := range []string{cert, key} {
		if _, err := os.Lstat(path); err == nil && !m.force {
			return "", "", fmt.Errorf("%s is there already, and nothing was written: --force replaces it, --out chooses another directory", path)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
	}
	if err := m.writeFile(key, p.Key, secretMode); err != nil {
		return "", "", err
	}
	return cert, key, m.writeFile(cert, p.Cert, publicMode)
}

// writeFile makes a new file, or replaces one atomically, because a node may be about to read it.
func (m *made) writeFile(path string, b []byte, mode fs.FileMode) error {
	open := func() (*os.File, error) { return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) }
	if m.force {
		open = func() (*os.File, error) { return os.CreateTemp(filepath.Dir(path), ".weir-tls-*") } // of mode 0600
	}
	f, err := open()
	if err != nil {
		return fmt.Errorf("can't write %s: %w", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil && m.force {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("can't write %s: %w", path, err)
	}
	return nil
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}
