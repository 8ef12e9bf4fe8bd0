package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// recipesVariable makes every recipe run, and a missing client an error. Without it only those run
// whose client is here and starts quickly.
const recipesVariable = "WEIR_E2E_RECIPES"

// recipeLimit is the limit that docs/workers.md shows in its refusals.
const recipeLimit = 5

// TestRecipes runs the lines of docs/workers.md, as they stand there, with the client that they are
// for. api.example.com is a name that only the nodes can resolve: a client that bypasses them
// fails, unless it is shown to do so and told the address.
func TestRecipes(t *testing.T) {
	needRoot(t)
	t.Parallel()
	kitchen := newKitchen(t)
	t.Run("names alone", func(t *testing.T) { t.Parallel(); kitchen.namesAlone(t) })
	t.Run("from", func(t *testing.T) { t.Parallel(); kitchen.fromScripts(t) })
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			if why := r.absent(t); why != "" {
				t.Log("*** NOT RUN: " + why + " ***")
				return
			}
			t.Parallel()
			kitchen.check(t, r)
		})
	}
}

// TestRecipesAreKnown: each block of docs/workers.md that is named is run, or shown with another.
func TestRecipesAreKnown(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"variables": true, "names alone": true}
	for _, r := range recipes {
		known[r.name], known[r.name+" again"], known[r.name+" command"] = true, true, true
		for _, bypass := range r.bypasses {
			known[bypass] = true
		}
	}
	for name := range readWorkersPage(t).blocks {
		if !known[name] {
			t.Errorf("docs/workers.md has a recipe %q that no test runs", name)
		}
	}
}

// kitchen is what all recipes share: three nodes that resolve names as no client can, and upstreams
// behind them.
type kitchen struct {
	*cluster
	page  *workersPage
	names *nameServer
	shop  *shop
}

func newKitchen(t *testing.T) *kitchen {
	t.Helper()
	names := newNameServer(t)
	k := &kitchen{page: readWorkersPage(t), names: names}
	k.cluster = startCluster(t, shape{ // with a ttl that outlasts what browsers do to a small machine
		ttl: 30 * time.Second, prepare: resolvingBy(t, "nameserver "+names.addr+"\n"),
	})
	k.shop = openShop(t, k.address())
	return k
}

// check runs a recipe freely, then over a limit that tunnels through another node fill, and, where
// the document has lines that try again, those.
func (k *kitchen) check(t *testing.T, r recipe) {
	x := k.lay(t, r)
	k.setLimit(t, x.host, connections(recipeLimit))
	for _, scheme := range r.schemes() {
		x.served(t, r.name, scheme)
	}
	for _, bypass := range r.bypasses {
		x.bypasses(t, bypass)
	}
	held := x.fill(t)
	row := k.page.row(t, r.row)
	for _, scheme := range r.schemes() {
		x.refused(t, scheme, row)
	}
	if _, ok := k.page.blocks[r.name+" again"]; !ok {
		release(held)
		return
	}
	scheme := cmp.Or(r.again, "https")
	before := x.rejected(t)
	done := make(chan struct{})
	go func() { // lets go once the client has been refused
		defer close(done)
		eventuallySoon(func() bool { return x.rejected(t) > before })
		release(held)
	}()
	x.served(t, r.name+" again", scheme)
	<-done
}

// eventuallySoon waits for a condition, for at most half a minute.
func eventuallySoon(check func() bool) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !check() && time.Now().Before(deadline); {
		<-tick.C
	}
}

func release(held []*load.Tunnel) {
	for _, tunnel := range held {
		_ = tunnel.Close()
	}
}

// tryout is one recipe on one name.
type tryout struct {
	*kitchen
	recipe recipe
	host   string
	dir    string
	env    []string
	runs   int
}

func (k *kitchen) lay(t *testing.T, r recipe) *tryout {
	t.Helper()
	x := &tryout{kitchen: k, recipe: r, dir: t.TempDir()}
	x.host = strings.ReplaceAll(r.name, " ", "-") + ".example.test"
	k.names.set(x.host, nameAnswer{addrs: []string{k.shop.address}})
	x.env = append(k.shop.trust(t, x.dir),
		"HOME="+x.dir, "XDG_CONFIG_HOME="+x.dir, "PATH="+programs(t, x.dir)+":"+os.Getenv("PATH"))
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
		x.env = append(x.env, name+"=", strings.ToUpper(name)+"=")
	}
	return x
}

// rejected is how often the cluster has refused a connection to the recipe's host.
func (x *tryout) rejected(t *testing.T) int { return int(x.nodes[0].http.host(t, x.host).Rejected) }

// fill opens as many tunnels as the limit allows, through another node than the client's.
func (x *tryout) fill(t *testing.T) (held []*load.Tunnel) {
	t.Helper()
	for len(held) < recipeLimit {
		eventually(t, 5*time.Second, "a tunnel to hold", func() error {
			tunnel, err := x.nodes[1].try(fmt.Sprintf("%s:%d", x.host, x.shop.plain))
			if err == nil {
				held = append(held, tunnel)
				t.Cleanup(func() { _ = tunnel.Close() })
			}
			return err
		})
	}
	return held
}

// served runs a block that must succeed, through the proxy.
func (x *tryout) served(t *testing.T, block, scheme string) {
	t.Helper()
	seen, admitted := x.shop.seen(x.host), x.nodes[0].http.host(t, x.host).Admitted
	out, code := x.run(t, block, scheme)
	t.Logf("%s, %s: exit code %d:\n%s", block, scheme, code, out)
	if code != 0 || !strings.Contains(out, x.recipe.shows) {
		t.Errorf("%s by %s: exit code %d; want 0, and %q in its output:\n%s", block, scheme, code, x.recipe.shows, out)
	}
	if x.shop.seen(x.host) == seen {
		t.Errorf("%s by %s: the upstream has seen no request", block, scheme)
	}
	if x.nodes[0].http.host(t, x.host).Admitted == admitted {
		t.Errorf("%s by %s: no connection was admitted by a node", block, scheme)
	}
	if !x.logged(t) {
		t.Errorf("%s by %s: the node's log has no line for %s", block, scheme, x.host)
	}
}

// logged tells whether the node has a line for the recipe's host.
func (x *tryout) logged(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile(x.nodes[0].logPath)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(text), x.host)
}

// bypasses runs a block whose client must reach the upstream, but not by the proxy. Its hosts file
// has the name: to an address on loopback, clients may bypass a proxy that they would use
// otherwise. By http, a request through a node could go unnoticed: a connection that was kept is
// not admitted again.
func (x *tryout) bypasses(t *testing.T, block string) {
	t.Helper()
	hosts := filepath.Join(x.dir, "hosts")
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", x.shop.address, x.host), 0o644); err != nil {
		t.Fatal(err)
	}
	seen, admitted := x.shop.seen(x.host), x.nodes[0].http.host(t, x.host).Admitted
	out, code := x.run(t, block, "https", "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts)
	t.Logf("%s: exit code %d:\n%s", block, code, out)
	if now := x.shop.seen(x.host); code != 0 || now == seen {
		t.Errorf("%s: exit code %d, and the upstream has seen %d requests; want 0, and some:\n%s", block, code, now-seen, out)
	}
	if now := x.nodes[0].http.host(t, x.host).Admitted; now != admitted {
		t.Errorf("%s goes through the proxy; the document says that it bypasses it", block)
	}
}

// refused runs the recipe while the limit is reached: it prints what the document says, and asks as
// often as the document says.
func (x *tryout) refused(t *testing.T, scheme string, row refusalRow) {
	t.Helper()
	before := x.rejected(t)
	out, code := x.run(t, x.recipe.name, scheme)
	t.Logf("%s, %s, over the limit: exit code %d:\n%s", x.recipe.name, scheme, code, out)
	for _, span := range row.shown[scheme] {
		if !x.pattern(span, scheme).MatchString(out) {
			t.Errorf("over the limit, by %s, the document says that it shows %q; it shows:\n%s", scheme, span, out)
		}
	}
	if len(row.shown[scheme]) == 0 {
		t.Errorf("docs/workers.md does not say what %s shows of a refusal by %s", x.recipe.row, scheme)
	}
	eventually(t, 3*time.Second, fmt.Sprintf("%d refusals, as the document says", row.tries), func() error {
		if got := x.rejected(t) - before; got != row.tries && !(row.more && got > row.tries) {
			return fmt.Errorf("by %s it was refused %d times", scheme, got)
		}
		return nil
	})
}

// pattern is what a code span of the document matches: … is any text, and any white space is one
// space.
func (x *tryout) pattern(span, scheme string) *regexp.Regexp {
	var parts []string
	for part := range strings.SplitSeq(x.fit(span, scheme), "…") {
		parts = append(parts, strings.Join(strings.Fields(regexp.QuoteMeta(part)), `\s+`))
	}
	return regexp.MustCompile("(?s)" + strings.Join(parts, ".*"))
}

// fit puts the test's own addresses, names and scheme where the document has examples.
func (x *tryout) fit(text, scheme string) string {
	host, port, _ := strings.Cut(x.nodes[0].proxy, ":")
	upstream := fmt.Sprintf("%s:%d", x.host, x.shop.port(scheme))
	for _, change := range [][2]string{
		{"127.0.0.1:8080", x.nodes[0].proxy}, {"127.0.0.1", host}, {"8080", port},
		{"https://api.example.com", scheme + "://" + upstream}, {"http://api.example.com", scheme + "://" + upstream},
		{"api.example.com", x.host}, {"example.com", "example.test"}, {"/usr/bin/chromium", filepath.Join(x.dir, "bin", "chromium")},
	} {
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	return text
}

// run runs a block of the document with the variables that it begins with, by a wrapper if there is
// one.
func (x *tryout) run(t *testing.T, block, scheme string, wrapper ...string) (out string, code int) {
	t.Helper()
	lines, ok := x.page.blocks[block]
	if !ok {
		t.Fatalf("docs/workers.md has no recipe %q", block)
	}
	x.runs++
	dir := filepath.Join(x.dir, fmt.Sprint(x.runs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, x.recipe.file)
	if err := os.WriteFile(file, []byte(x.fit(lines, scheme)), 0o600); err != nil {
		t.Fatal(err)
	}
	script := ""
	if !x.recipe.noVariables {
		script = x.fit(x.page.blocks["variables"], scheme) + "\n"
	}
	if x.recipe.setUp != nil {
		script += x.recipe.setUp(t, x, dir, scheme) + "\n"
	}
	args := append(wrapper, "bash", "-c", script+x.recipe.command)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), x.env...)
	cmd.WaitDelay = time.Second
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// namesAlone: a client that asks for an address escapes the limit on a name, but not those on
// addresses, which are not in the way of names.
func (k *kitchen) namesAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits.hcl")
	name := "resolves-itself.example.test"
	k.names.set(name, nameAnswer{addrs: []string{k.shop.address}})
	byName, byAddress := fmt.Sprintf("%s:%d", name, k.shop.plain), fmt.Sprintf("%s:%d", k.shop.address, k.shop.plain)
	k.setLimit(t, name, connections(0))
	k.nodes[0].refuse(t, byName, "connection_limit_reached")
	_ = k.nodes[0].open(t, byAddress).Close()

	text := "data_dir = \"d\"\n" + strings.ReplaceAll(k.page.blocks["names alone"], "api.example.com", name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := k.nodes[0].weir(t, "validate", file); code != 0 {
		t.Errorf("weir validate: exit code %d: %s%s", code, out, errs)
	}
	for _, pattern := range []string{"0.0.0.0/0", "::/0"} {
		k.setLimit(t, pattern, connections(0))
	}
	k.setLimit(t, name, connections(5))
	k.nodes[0].refuse(t, byAddress, "connection_limit_reached")
	_ = k.nodes[0].open(t, byName).Close()
}
