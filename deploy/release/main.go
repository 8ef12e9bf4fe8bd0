// Command release builds what a release of weir consists of: for each platform an archive with the
// binary and what belongs to it, and a bill of materials (CycloneDX) of what the binary was made
// from; and SHA256SUMS of them all.
//
// The same commit gives the same bytes, wherever and whenever it is built with the same Go: the
// binaries carry no paths, and the archives the commit's time, one owner, and their files in order.
package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// release is what is built.
type release struct {
	root    string // of the sources
	out     string
	version string
	commit  string
	time    time.Time // of the commit
}

// platform is what a binary runs on.
type platform struct{ os, arch string }

func main() {
	r := release{}
	platforms := flag.String("platforms", "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64", "os/arch, with commas between")
	flag.StringVar(&r.root, "root", ".", "the top of the sources")
	flag.StringVar(&r.out, "out", "bin/release", "the directory to write to; what is in it is removed")
	flag.Parse()
	err := r.run(*platforms)
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func (r *release) run(list string) error {
	platforms, err := parsePlatforms(list)
	if err != nil {
		return err
	}
	if err := r.identify(); err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	common, err := r.commonFiles()
	if err != nil {
		return err
	}
	for _, p := range platforms {
		if err := r.build(p, common); err != nil {
			return fmt.Errorf("%s/%s: %w", p.os, p.arch, err)
		}
	}
	return writeSums(r.out)
}

func parsePlatforms(list string) ([]platform, error) {
	var platforms []platform
	for _, text := range strings.Split(list, ",") {
		system, arch, ok := strings.Cut(text, "/")
		if !ok || system == "" || arch == "" {
			return nil, fmt.Errorf("%q is no platform: write os/arch, such as linux/amd64", text)
		}
		platforms = append(platforms, platform{system, arch})
	}
	return platforms, nil
}

// identify asks git what is released.
func (r *release) identify() error {
	root, err := filepath.Abs(r.root)
	if err != nil {
		return err
	}
	r.root = root
	changed, err := r.git("status", "--porcelain") // files that git does not know would be in the binary, too
	if err != nil {
		return err
	}
	if changed != "" {
		return fmt.Errorf("the sources differ from the commit, and nobody could build this again: commit, or build from a clone\n%s", changed)
	}
	var seconds int64
	committed, err1 := r.git("log", "-1", "--format=%ct")
	r.commit, err = r.git("rev-parse", "HEAD")
	version, err2 := r.git("describe", "--tags", "--always")
	if err := errors.Join(err, err1, err2); err != nil {
		return err
	}
	if _, err := fmt.Sscan(committed, &seconds); err != nil {
		return fmt.Errorf("the commit's time %q: %w", committed, err)
	}
	r.version, r.time = version, time.Unix(seconds, 0).UTC()
	return nil
}

func (r *release) git(args ...string) (string, error) {
	out, err := exec.Command("git", append([]string{"-C", r.root}, args...)...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

// shipped are the files of the sources that every archive holds: what people read, and what they
// run nodes with.
var shipped = []string{
	"README.md", "LICENSE", "docs/*.md", "docs/*.svg", "docs/ui/*.png", "docs/man/*.1",
	"examples/*.hcl", "examples/three-nodes/*.hcl",
	"deploy/*.yaml", "deploy/compose/*", "deploy/systemd/*", "deploy/prometheus/*", "deploy/grafana/*",
	"deploy/kubernetes/*.*", "deploy/kubernetes/proxies/*",
}

// commonFiles are those of every archive: the shipped ones, and shell completion.
func (r *release) commonFiles() ([]file, error) {
	var files []file
	for _, pattern := range shipped {
		paths, err := filepath.Glob(filepath.Join(r.root, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(r.root, path)
			if err != nil {
				return nil, err
			}
			files = append(files, file{filepath.ToSlash(name), 0o644, content})
		}
	}
	for shell, name := range map[string]string{"bash": "weir.bash", "zsh": "_weir", "fish": "weir.fish"} {
		cmd := exec.Command("go", "run", "./cmd/weir", "completion", shell)
		cmd.Dir = r.root
		script, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("completion for %s: %w", shell, err)
		}
		files = append(files, file{"completion/" + name, 0o644, script})
	}
	return files, nil
}

// build makes one platform's files.
func (r *release) build(p platform, common []file) error {
	dir, err := os.MkdirTemp("", "weir-release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "weir")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=true", "-o", binary,
		"-ldflags", "-s -w -buildid= -X main.version="+r.version+" -X main.commit="+r.commit, "./cmd/weir")
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("weir-%s-%s-%s", r.version, p.os, p.arch)
	archive, err := pack(name, r.time, append(slices.Clone(common), file{"weir", 0o755, content}))
	if err != nil {
		return err
	}
	bill, err := billOfMaterials(binary, name+".tar.gz", r)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(r.out, name+".tar.gz"), archive, 0o644),
		os.WriteFile(filepath.Join(r.out, name+".cdx.json"), bill, 0o644),
	)
}

// writeSums writes SHA256SUMS, as sha256sum -c takes it, of what is in the directory.
func writeSums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	var sums strings.Builder
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", h.Sum(nil), e.Name())
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
