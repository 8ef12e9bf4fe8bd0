package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWarnings: what is open to the network or to other users is named, with its place; what stays
// on the machine is not.
func TestWarnings(t *testing.T) {
	if ds := Warnings(Default(true)); len(ds) != 0 {
		t.Errorf("the defaults: %v", ds)
	}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("t"), 0o644); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile("testdata/files/node-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(key, pem, 0o644); err != nil {
		t.Fatal(err)
	}
	const joined = "join = [\"10.0.0.2\"]"
	const head = "name = \"a\"\nrole = \"proxy\"\n"
	keys := "\n gossip_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n tls {\n ca_file = \"testdata/files/ca.pem\"\n cert_file = \"testdata/files/node.pem\"\n key_file = \"" + key + "\"\n }"
	const beyond = "cluster {\n rpc = \"10.0.0.1:1\"\n gossip = \"10.0.0.1:2\"\n " + joined
	const cluster = "cluster {\n " + joined + "\n}"
	for name, test := range map[string]struct {
		content string
		want    []string // a part of each, in order
	}{
		"plain on loopback":     {head + cluster, nil},
		"a proxy by itself":     {head, []string{"cluster.join is empty on a proxy"}},
		"a server by itself":    {"data_dir = \"d\"", []string{"cluster.join is empty on a server"}},
		"the first of three":    {"data_dir = \"d\"\ncluster {\n bootstrap_expect = 3\n}", []string{":2,1: cluster.join is empty, and bootstrap_expect is 3"}},
		"plain beyond":          {head + beyond + "\n}", []string{":4,2: cluster.rpc is 10.0.0.1:1 without TLS", ":5,2: cluster.gossip is 10.0.0.1:2 without a key"}},
		"encrypted beyond":      {head + beyond + keys + "\n}", []string{`key.pem"`}},
		"on the way":            {head + beyond + keys + "\n plaintext = \"send\"\n}", []string{`cluster.plaintext is "send"`, "key.pem"}},
		"a token in the clear":  {head + "api {\n listen = \":1\"\n token_file = \"" + token + "\"\n}\n" + cluster, []string{":4,2: api.listen is :1 without TLS", ":5,2: api.token_file: every user of this machine can read"}},
		"a token over loopback": {head + "api {\n token_file = \"" + token + "\"\n}\n" + cluster, []string{"every user"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Warnings(load(t, test.content))
			if len(got) != len(test.want) {
				t.Fatalf("%v; want %q", got, test.want)
			}
			for i, d := range got {
				if !strings.Contains(d.String(), test.want[i]) || d.Hint == "" || !d.Warning {
					t.Errorf("%v; want %q", d, test.want[i])
				}
			}
		})
	}
	var b strings.Builder
	if err := WriteDiagnostics(&b, Diagnostics{{Message: "open", Warning: true}}); err != nil || b.String() != "Warning: open\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// TestExpiredCertificate: a problem to who checks the files, none to a node that starts.
func TestExpiredCertificate(t *testing.T) {
	file := write(t, "a.hcl", "data_dir = \"d\"\napi {\n tls {\n cert_file = \"testdata/files/expired.pem\"\n key_file = \"testdata/files/expired-key.pem\"\n }\n}")
	if _, diags := Load([]string{file}, testOptions()); len(diags) != 1 || !strings.Contains(diags[0].String(), "has expired on 2025-01-02") {
		t.Errorf("%v", diags)
	}
	options := testOptions()
	options.Running = true
	if c, diags := Load([]string{file}, options); c == nil || len(diags) != 0 {
		t.Errorf("%v", diags)
	}
}
