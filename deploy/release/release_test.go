package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// An archive depends on its content alone, not on the order in which it was found.
func TestPack(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	a, err1 := pack("weir-1", at, []file{{"b", 0o755, []byte("two")}, {"a/c", 0o644, []byte("one")}})
	b, err2 := pack("weir-1", at, []file{{"a/c", 0o644, []byte("one")}, {"b", 0o755, []byte("two")}})
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Fatalf("the same files give other archives: %v", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		content, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d %d %s", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), content))
	}
	want := "weir-1/a/c 644 0:0 1700000000 one\nweir-1/b 755 0:0 1700000000 two"
	if strings.Join(got, "\n") != want {
		t.Errorf("the archive holds\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestParsePlatforms(t *testing.T) {
	if got, err := parsePlatforms("linux/amd64,darwin/arm64"); err != nil || fmt.Sprint(got) != "[{linux amd64} {darwin arm64}]" {
		t.Errorf("%v, %v", got, err)
	}
	for _, list := range []string{"", "linux", "linux/", "/arm64", "linux/amd64,"} {
		if got, err := parsePlatforms(list); err == nil {
			t.Errorf("%q is taken for %v", list, got)
		}
	}
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	want := fmt.Sprintf("%x  a\n%x  b\n", sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b")))
	if err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// The bill of materials is what the format's own schema allows, and names what is in the binary.
// This test's own will do.
func TestBillOfMaterials(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &release{version: "v1.2.3", commit: "abc", time: time.Unix(1_700_000_000, 0).UTC()}
	bill, err := billOfMaterials(binary, "weir.tar.gz", r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := billOfMaterials(binary, "weir.tar.gz", r)
	if err != nil || !bytes.Equal(bill, again) {
		t.Errorf("the second bill differs from the first: %v", err)
	}
	content, err := jsonschema.UnmarshalJSON(bytes.NewReader(bill))
	if err != nil {
		t.Fatal(err)
	}
	if err := billSchema(t).Validate(content); err != nil {
		t.Error(err)
	}
	var bom cyclonedx.BOM
	if err := json.Unmarshal(bill, &bom); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range *bom.Components {
		found = found || c.Name == "github.com/CycloneDX/cyclonedx-go" && strings.HasPrefix(c.PackageURL, "pkg:golang/github.com/CycloneDX/cyclonedx-go@v") && len(*c.Hashes) == 1
	}
	if !found || bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("a module that is in the binary is missing, or the time is wrong:\n%s", bill)
	}
}

// billSchema is the schema of CycloneDX 1.6, which comes with the library.
func billSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	schemas := os.DirFS(filepath.Join(strings.TrimSpace(string(dir)), "schema"))
	c := jsonschema.NewCompiler()
	for url, name := range map[string]string{
		"http://cyclonedx.org/schema/bom-1.6.schema.json":  "bom-1.6.schema.json",
		"http://cyclonedx.org/schema/spdx.schema.json":     "spdx.schema.json",
		"http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		b, err := fs.ReadFile(schemas, name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err == nil {
			err = c.AddResource(url, doc)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	schema, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
