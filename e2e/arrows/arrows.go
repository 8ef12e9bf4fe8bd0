// Package arrows holds the tree to its layout: which package may import which, and which
// third-party library may be seen where. The rules are data, below; the test in this package
// applies them to every package of the module.
package arrows

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/weirproxy/weir"

// root is the area of the package at the module's root; only itself is in it.
const root = "weir"

// areas says which areas of the tree an area may import beside itself. An area is a package of the
// top level (or a program) with all that is below it, but what is an area of its own.
var areas = map[string][]string{
	"limit":               nil,
	"fsm/fsmpb":           {"limit"},
	"fsm":                 {"fsm/fsmpb", "limit"},
	"config/certs":        nil,
	"config":              {"config/certs", "limit"},
	"lease/leasepb":       {"fsm/fsmpb", "limit"},
	"lease/due":           nil,
	"lease":               {"lease/leasepb", "lease/due", "fsm/fsmpb", "limit"},
	"lease/leader":        {"lease/leasepb", "lease/due", "fsm", "fsm/fsmpb", "limit"},
	"lease/leasetest":     {"lease", "lease/leader", "lease/leasepb", "fsm", "fsm/fsmpb", "limit"},
	"cluster":             {"cluster/rpcport", "cluster/gossip", "cluster/handshake", "cluster/lognoise", "cluster/clusterpb", "fsm", "config/certs"},
	"cluster/rpcport":     {"cluster/handshake", "cluster/lognoise", "config/certs"},
	"cluster/gossip":      {"cluster/handshake", "cluster/lognoise", "cluster/clusterpb"},
	"cluster/handshake":   {"cluster/clusterpb"},
	"cluster/lognoise":    nil,
	"cluster/clusterpb":   nil,
	"cluster/clustertest": {"config/certs"},
	"proxy":               {"lease", "limit", "proxy/accesslog", "proxy/auth", "proxy/clienttls", "proxy/http1", "proxy/resolve", "proxy/sock", "proxy/socks5"},
	"proxy/accesslog":     nil,
	"proxy/auth":          nil,
	"proxy/clienttls":     {"proxy/sock"},
	"proxy/http1":         nil,
	"proxy/proxytest":     {"proxy/sock"},
	"proxy/resolve":       nil,
	"proxy/sock":          nil,
	"proxy/socks5":        nil,
	"api":                 {"limit"},
	"api/server":          {"api", "api/ui", "fsm", "limit"},
	"api/ui":              nil,
	"connlimit":           nil,
	root:                  {"config", "api", "api/server", "proxy", "proxy/resolve", "lease", "lease/leader", "lease/leasepb", "cluster", "fsm", "limit", "config/certs"},
	"cmd/weir":            {root, "config", "api", "config/certs", "limit", "fsm", "cluster"}, // the last two read a stopped server's files
	"e2e":                 {"api"},
	"examples/demo":       {"e2e"},
}

// testAreas says what an area's tests may import beyond that: a side of the lease is tested against
// the other.
var testAreas = map[string][]string{
	root:                {"connlimit"},
	"cluster":           {"cluster/clustertest"},
	"cluster/rpcport":   {"cluster/clustertest", "cluster/clusterpb"},
	"cluster/gossip":    {"cluster/clustertest"},
	"cluster/handshake": {"cluster/clustertest"},
	"lease":             {"lease/leader", "lease/leasetest", "fsm"},
	"lease/leader":      {"lease/leasetest"},
	"lease/leasepb":     {"lease/leasetest"},
	"proxy":             {"proxy/proxytest"},
	"proxy/accesslog":   {"proxy/proxytest"},
	"proxy/clienttls":   {"proxy/proxytest"},
	"proxy/http1":       {"limit"},
}

// libraries says in which areas a third-party module may be imported but by tests. What is not
// listed may be used anywhere.
var libraries = map[string][]string{
	"github.com/hashicorp/hcl":            {"config"},
	"github.com/zclconf/go-cty":           {"config"},
	"github.com/hashicorp/memberlist":     {"cluster/gossip"},
	"github.com/hashicorp/raft":           {"cluster", "fsm"},
	"github.com/hashicorp/raft-boltdb":    {"cluster"},
	"github.com/hashicorp/raft-autopilot": {"cluster"},
	"go.etcd.io/bbolt":                    {"cluster"},
	"github.com/gofrs/flock":              {"cluster"},
	"github.com/spf13/cobra":              {"cmd/weir"},
	"charm.land/bubbletea":                {"cmd/weir"},
	"go.yaml.in/yaml":                     {"cmd/weir"},
	"google.golang.org/grpc":              {"lease/leasepb", "lease/leader", "cluster", "cluster/rpcport", "cluster/clusterpb", root},
	"google.golang.org/protobuf":          {"fsm", "fsm/fsmpb", "lease/leasepb", "lease/leasetest", "cluster/gossip", "cluster/handshake", "cluster/clusterpb"},
	"github.com/miekg/dns":                {"proxy/resolve"},
	"github.com/prometheus":               {"api/server"},
}

// testOnly are the modules that no program may contain.
var testOnly = []string{"pgregory.net/rapid", "go.uber.org/goleak", "github.com/google/go-cmp", "github.com/anishathalye/porcupine", "github.com/pb33f", "github.com/chromedp", "github.com/hashicorp/go-connlimit", "golang.org/x/net/netutil"}

// testHelpers are the areas whose packages exist for tests, though their files are not test files.
var testHelpers = []string{"e2e", "examples/demo", "cluster/clustertest", "lease/leasetest", "limit/limittest", "proxy/proxytest"}

// Check returns a sentence for each import of the package at path that no arrow allows. tests tells
// that the imports are those of its tests.
func Check(path string, imports []string, tests bool) []string {
	within := place(path)
	area, known := areaOf(within)
	if !known {
		return []string{fmt.Sprintf("%s is in no area of the layout: add it to the arrows", path)}
	}
	var wrong []string
	for _, target := range imports {
		if why := forbidden(within, area, target, tests); why != "" {
			wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", within, target, why))
		}
	}
	return wrong
}

func forbidden(within, area, target string, tests bool) string {
	if covers(module, target) {
		inside := place(target)
		if !tests && isHelper(inside) && !isHelper(within) {
			return "only tests may"
		}
		to, _ := areaOf(inside)
		if to == area || slices.Contains(areas[area], to) || tests && slices.Contains(testAreas[area], to) {
			return ""
		}
		return fmt.Sprintf("%s may import %v", area, areas[area])
	}
	for library, allowed := range libraries {
		if !tests && covers(library, target) && !slices.Contains(allowed, area) {
			return fmt.Sprintf("only %v may", allowed)
		}
	}
	if !tests && !isHelper(within) && slices.ContainsFunc(testOnly, func(m string) bool { return covers(m, target) }) {
		return "only tests may"
	}
	return ""
}

// place is a package's path below the module, or root.
func place(path string) string {
	if path == module {
		return root
	}
	return strings.TrimPrefix(path, module+"/")
}

func isHelper(within string) bool {
	return slices.ContainsFunc(testHelpers, func(h string) bool { return covers(h, within) })
}

// areaOf finds the area that a path below the module belongs to.
func areaOf(within string) (area string, known bool) {
	for a := range areas {
		if covers(a, within) && len(a) > len(area) {
			area = a
		}
	}
	return area, area != ""
}

// covers reports whether path is root or below it.
func covers(root, path string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}
