package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// billOfMaterials lists what a binary was made from, as the binary itself says: the modules and the
// standard library.
func billOfMaterials(binary, archive string, r *release) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	weir := cyclonedx.Component{
		BOMRef: purl(info.Main.Path, r.version), Type: cyclonedx.ComponentTypeApplication, Name: info.Main.Path, Version: r.version,
		PackageURL: purl(info.Main.Path, r.version),
		Licenses:   &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "MPL-2.0"}}},
		Hashes:     &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: fmt.Sprintf("%x", sum)}},
		Properties: &[]cyclonedx.Property{{Name: "weir:archive", Value: archive}, {Name: "weir:commit", Value: r.commit}},
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	std := cyclonedx.Component{
		BOMRef: purl("std", version), Type: cyclonedx.ComponentTypeLibrary, Name: "std", Version: version, PackageURL: purl("std", version),
		Scope: cyclonedx.ScopeRequired,
	}
	components := []cyclonedx.Component{std}
	refs := []string{std.BOMRef}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := cyclonedx.Component{
			BOMRef: purl(m.Path, m.Version), Type: cyclonedx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl(m.Path, m.Version),
			Scope: cyclonedx.ScopeRequired,
		}
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(raw) == sha256.Size {
			c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: fmt.Sprintf("%x", raw)}} // of the module, as in go.sum
		}
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = serial(sum)
	bom.Metadata = &cyclonedx.Metadata{Timestamp: r.time.Format(time.RFC3339), Component: &weir}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: weir.BOMRef, Dependencies: &refs}}
	var out bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return out.Bytes(), err
}

// purl is a Go module's package URL.
func purl(path, version string) string {
	if version == "" {
		return "pkg:golang/" + path
	}
	return "pkg:golang/" + path + "@" + version
}

// serial is a UUID that the binary determines (RFC 9562 §5.8).
func serial(sum [sha256.Size]byte) string {
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
