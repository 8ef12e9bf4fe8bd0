package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// recipe is a client whose lines docs/workers.md has.
type recipe struct {
	name     string   // of the document's block, and of the host that it asks for
	row      string   // the first cell of its row in the table of refusals
	file     string   // what the block is written to
	command  string   // runs it, by bash in the file's directory
	shows    string   // in the output of success; "": nothing in particular
	needs    []string // commands that succeed where the client is here
	packages string   // Debian's, that have it
	heavy    bool     // installed and run by make recipes alone
	only     string   // the one scheme that it is run with; "": http and https
	again    string   // the scheme that its lines to try again are run with; "": https
	bypasses []string // further blocks of the document: they must bypass the proxy
	// noVariables leaves the proxy variables unset: the lines alone must lead through the proxy.
	noVariables bool
	// setUp, where set, returns lines for bash that the command needs in this test.
	setUp func(t *testing.T, x *tryout, dir, scheme string) string
}

var recipes = []recipe{
	{name: "curl", row: "curl", file: "run.sh", command: "bash run.sh", shows: "in stock", needs: []string{"curl --version"}, packages: "curl"},
	{name: "wget", row: "wget", file: "run.sh", command: "bash run.sh", shows: "in stock", needs: []string{"wget --version"}, packages: "wget", again: "http"},
	{name: "git", row: "git", file: "run.sh", command: "bash run.sh", needs: []string{"git --version"}, packages: "git"},
	pythonRecipe("urllib", "Python urllib", "python3", "import urllib.request"),
	pythonRecipe("requests", "Python requests", "python3-requests", "import requests"),
	pythonRecipe("httpx", "Python httpx", "python3-httpx", "import httpx"),
	pythonRecipe("aiohttp", "Python aiohttp", "python3-aiohttp", "import aiohttp", "aiohttp bypass"),
	{
		name: "scrapy", row: "Scrapy", file: "spider.py", command: "scrapy runspider spider.py", shows: "in stock",
		needs: []string{"scrapy version"}, packages: "python3-scrapy", heavy: true,
	},
	{
		name: "go", row: "Go", file: "fetch.go", command: "go run fetch.go", shows: "200 OK", needs: []string{"go version"}, heavy: true,
		bypasses: []string{"go bypass"}, setUp: goSetUp,
	},
	nodeRecipe("fetch", "Node fetch with undici", "fetch bypass"),
	nodeRecipe("axios", "Node axios"),
	nodeRecipe("proxy-agent", "Node with proxy-agent", "get bypass"),
	javaRecipe("java", "Java HttpClient", "Fetch", "java bypass"),
	javaRecipe("java-url", "Java HttpURLConnection", "FetchURL"),
	{
		name: "chromium", row: "Chromium", file: "run.sh", command: "bash run.sh", shows: "in stock",
		needs: []string{"chromium --version"}, packages: "chromium", heavy: true, noVariables: true,
	},
	playwright(),
	{
		name: "pip", row: "pip", file: "run.sh", command: "bash run.sh", needs: []string{"pip --version"}, packages: "python3-pip", heavy: true,
		only: "https", // it refuses to install by http
		setUp: func(_ *testing.T, _ *tryout, dir, _ string) string {
			return "unset PIP_FIND_LINKS; export PIP_TARGET=" + dir + "/lib PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=10"
		},
	},
	{
		name: "npm", row: "npm", file: "run.sh", command: "bash run.sh", needs: []string{"npm --version"}, packages: "npm", heavy: true,
		setUp: func(_ *testing.T, _ *tryout, _, _ string) string { // it waits for 10 s and 60 s by default
			return "export npm_config_fetch_retry_mintimeout=100 npm_config_fetch_retry_maxtimeout=200 npm_config_update_notifier=false"
		},
	},
	{
		name: "apt", row: "apt", file: "80weir", command: aptUpdate, needs: []string{"apt-get --version"}, heavy: true, noVariables: true, setUp: aptSetUp,
	},
	{
		name: "ssh", row: "ssh", file: "config", command: "ssh -F config -p $PORT -o BatchMode=yes -o UserKnownHostsFile=hosts -o StrictHostKeyChecking=accept-new $HOST",
		shows: "in stock", needs: []string{"ssh -V", "nc -h 2>&1 | grep -- '-X proto'"}, packages: "openssh-client netcat-openbsd",
		heavy: true, only: "https", noVariables: true,
		setUp: func(_ *testing.T, x *tryout, _, _ string) string {
			return fmt.Sprintf("PORT=%d HOST=%s", x.shop.ssh, x.host)
		},
	},
}

func pythonRecipe(name, row, packages, imports string, bypasses ...string) recipe {
	return recipe{
		name: name, row: row, file: "fetch.py", command: "python3 fetch.py", shows: "200 OK", bypasses: bypasses,
		needs: []string{"python3 -c '" + imports + "'"}, packages: packages,
	}
}

// nodeModules is where make recipes installs e2e/testdata/node.
func nodeModules(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../bin/recipes/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func nodeRecipe(name, row string, bypasses ...string) recipe {
	return recipe{
		name: name, row: row, file: "fetch.mjs", command: "node fetch.mjs", shows: "200 OK", bypasses: bypasses,
		needs: []string{"node --version", "test -d node_modules"}, packages: "nodejs, and the packages of e2e/testdata/node", heavy: true,
		setUp: func(t *testing.T, _ *tryout, dir, _ string) string {
			if err := os.Symlink(nodeModules(t), filepath.Join(dir, "node_modules")); err != nil {
				t.Fatal(err)
			}
			return ""
		},
	}
}

func playwright() recipe {
	r := nodeRecipe("playwright", "Playwright")
	r.needs, r.noVariables = append(r.needs, "chromium --version"), true
	r.packages += ", chromium"
	return r
}

func javaRecipe(name, row, class string, bypasses ...string) recipe {
	return recipe{
		name: name, row: row, file: class + ".java", command: "bash run.sh", shows: "200", bypasses: bypasses,
		needs: []string{"java -version", "keytool -help"}, packages: "openjdk-17-jdk-headless", heavy: true,
		setUp: func(t *testing.T, x *tryout, dir, scheme string) string {
			line := x.fit(x.page.blocks[name+" command"], scheme)
			if line == "" {
				line = "java " + class + ".java"
			}
			if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
			store := filepath.Join(dir, "trusted")
			command(t, "keytool", "-importcert", "-noprompt", "-file", x.shop.certificate, "-keystore", store, "-storepass", "changeit")
			return "export JDK_JAVA_OPTIONS='-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStore=" + store + "'"
		},
	}
}

// goSetUp keeps the caches of the go command, which are in the home directory by default.
func goSetUp(t *testing.T, _ *tryout, _, _ string) string {
	t.Helper()
	vars := strings.Fields(command(t, "go", "env", "GOCACHE", "GOMODCACHE"))
	return "export GOFLAGS= GO111MODULE=off GOCACHE=" + vars[0] + " GOMODCACHE=" + vars[1]
}

const aptUpdate = `APT_CONFIG=80weir apt-get update -o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=- ` +
	`-o Dir::State=$PWD/state -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root -o Acquire::https::CAInfo=$CURL_CA_BUNDLE ` +
	`-o Acquire::Languages=none -o APT::Update::Error-Mode=any`

// aptSetUp gives apt a state and a source of its own.
func aptSetUp(t *testing.T, x *tryout, dir, scheme string) string {
	t.Helper()
	source := fmt.Sprintf("deb [trusted=yes] %s://%s:%d/debian ./\n", scheme, x.host, x.shop.port(scheme))
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return "mkdir -p state/lists/partial cache/archives/partial"
}

// schemes are those that the recipe is run with.
func (r recipe) schemes() []string {
	if r.only != "" {
		return []string{r.only}
	}
	return []string{"http", "https"}
}

// absent tells why a recipe is not run: "" where it is. With recipesVariable, that is an error.
func (r recipe) absent(t *testing.T) string {
	t.Helper()
	all := os.Getenv(recipesVariable) != ""
	if r.heavy && !all {
		return r.row + ": run by make recipes"
	}
	dir := t.TempDir()
	path := programs(t, dir)
	for _, need := range r.needs {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", need)
		cmd.Dir, cmd.Env = filepath.Dir(nodeModules(t)), append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
		if _, err := os.Stat(cmd.Dir); err != nil {
			cmd.Dir = dir
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			why := fmt.Sprintf("%s: %q fails (%s); install %s", r.row, need, strings.TrimSpace(string(out)), r.packages)
			if all {
				t.Fatal(why)
			}
			return why
		}
	}
	return ""
}

// programs makes a directory of commands that stand before the machine's: the system's Python,
// whose modules its packages install, and Chromium as it runs for root and trusts a certificate of
// a test.
func programs(t *testing.T, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, script string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err == nil {
		write("python3", "exec "+python+` "$@"`)
		write("pip", "exec "+python+` -m pip "$@"`)
	}
	write("weir", "exec "+os.Getenv(binaryVariable)+` "$@"`)
	if chromium, err := exec.LookPath("chromium"); err == nil {
		write("chromium", "exec "+chromium+` --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking `+
			`--disable-component-update --disable-sync --ignore-certificate-errors "$@"`)
	}
	return bin
}
