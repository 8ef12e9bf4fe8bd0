package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// documents are the pages whose commands a reader may try.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../deploy/*.md", "../../deploy/*/*.md", "../../examples/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 5 {
		t.Fatalf("only %q are found", all)
	}
	return all
}

// TestDocumentedCommands: every weir, make and curl in the documents is one that there is:
// commands, flags and the number of arguments, targets, and paths and methods of the API.
func TestDocumentedCommands(t *testing.T) {
	targets, paths := makeTargets(t), apiPaths(t)
	checked := map[string]int{}
	for _, path := range documents(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range documentedCommands(string(b)) {
			checked[c.words[0]]++
			var err error
			switch c.words[0] {
			case "weir":
				err = checkWeir(c)
			case "make":
				err = checkMake(c.words, targets)
			case "curl":
				err = checkCurl(c.words, paths)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", path, strings.Join(c.words, " "), err)
			}
		}
	}
	for _, name := range []string{"weir", "make", "curl"} {
		if checked[name] < 3 {
			t.Errorf("only %d commands of %s are found", checked[name], name)
		}
	}
}

// documented is a command in a text. One in a sentence may lack arguments, and name several
// commands at once.
type documented struct {
	words  []string
	inText bool
}

var (
	blocks = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")
	spans  = regexp.MustCompile("`((?:bin/)?weir|make|curl) ([^`]+)`")
)

func documentedCommands(text string) []documented {
	var all []documented
	for _, block := range blocks.FindAllStringSubmatch(text, -1) {
		for line := range strings.SplitSeq(strings.ReplaceAll(block[1], "\\\n", " "), "\n") {
			for _, words := range shellCommands(line) {
				all = append(all, documented{words: words})
			}
		}
	}
	for _, span := range spans.FindAllStringSubmatch(blocks.ReplaceAllString(text, ""), -1) {
		for _, words := range shellCommands(span[1] + " " + span[2]) {
			all = append(all, documented{words, true})
		}
	}
	return slices.DeleteFunc(all, func(d documented) bool { return !slices.Contains([]string{"weir", "make", "curl"}, d.words[0]) })
}

// shellCommands splits a line of a shell into its commands, and those into words, as far as the documents' need it.
func shellCommands(line string) [][]string {
	var all [][]string
	var words []string
	var word strings.Builder
	var quote rune
	started := false
	endWord := func() {
		if started {
			words = append(words, word.String())
		}
		word.Reset()
		started = false
	}
	endCommand := func() {
		endWord()
		if words = withoutPrefix(words); len(words) > 0 {
			all = append(all, words)
		}
		words = nil
	}
	for i, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case r == '#' && !started && (i == 0 || line[i-1] == ' '):
			endCommand()
			return all
		case strings.ContainsRune("|&;()", r):
			endCommand()
		case unicode.IsSpace(r):
			endWord()
		default:
			word.WriteRune(r)
			started = true
		}
	}
	endCommand()
	return all
}

// withoutPrefix takes off variables, sudo and redirections, and the directory of the binary.
func withoutPrefix(words []string) []string {
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "exec" || words[0] == "$" || regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0])) {
		words = words[1:]
	}
	for i, w := range words {
		if strings.HasPrefix(w, ">") || strings.HasPrefix(w, "<") || strings.HasPrefix(w, "2>") {
			words = words[:i]
			break
		}
	}
	if len(words) > 0 {
		words[0] = strings.TrimPrefix(strings.TrimPrefix(words[0], "./"), "bin/")
	}
	return words
}

func checkWeir(c documented) error {
	args := slices.Clone(c.words[1:])
	root := testRoot()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if cmd == root && (len(rest) == 0 || !strings.HasPrefix(rest[0], "-")) {
		return fmt.Errorf("there is no such command")
	}
	if c.inText {
		rest = slices.DeleteFunc(rest, func(w string) bool { return strings.ContainsAny(w, "[]…｜") })
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	args = cmd.Flags().Args()
	if cmd.HasAvailableSubCommands() && len(args) > 0 && cmd != root {
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	}
	if c.inText || cmd.Args == nil || cmd.HasAvailableSubCommands() {
		return nil
	}
	return cmd.Args(cmd, args)
}

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9]+):`).FindAllStringSubmatch(string(b), -1) {
		targets[m[1]] = true
	}
	return targets
}

func checkMake(words []string, targets map[string]bool) error {
	for _, w := range words[1:] {
		if !strings.Contains(w, "=") && !strings.HasPrefix(w, "-") && !targets[w] {
			return fmt.Errorf("there is no target %s", w)
		}
	}
	return nil
}

// apiPaths are the paths of the API, as patterns, and the methods that each takes.
func apiPaths(t *testing.T) map[*regexp.Regexp][]string {
	t.Helper()
	b, err := os.ReadFile("../../api/server/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	paths := map[*regexp.Regexp][]string{}
	for path, methods := range spec.Paths {
		pattern := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), ".+")
		for method := range methods {
			re := regexp.MustCompile("^" + pattern + "$")
			paths[re] = append(paths[re], strings.ToUpper(method))
		}
	}
	return paths
}

// checkCurl checks what is asked of a node's API; other addresses are somebody else's.
func checkCurl(words []string, paths map[*regexp.Regexp][]string) error {
	method := "GET"
	for i, w := range words {
		if w == "-X" && i+1 < len(words) {
			method = words[i+1]
		}
		if strings.HasPrefix(w, "-d") || strings.HasPrefix(w, "--data") {
			if !slices.Contains(words, "-X") {
				method = "POST"
			}
		}
	}
	for _, w := range words[1:] {
		u, err := url.Parse(w)
		if err != nil || u.Scheme == "" || !strings.HasPrefix(u.Path, "/v1/") && !strings.HasSuffix(u.Path, "z") && u.Path != "/metrics" {
			continue
		}
		for re, methods := range paths {
			if re.MatchString(u.EscapedPath()) && slices.Contains(methods, method) {
				return nil
			}
		}
		return fmt.Errorf("the API has no %s %s", method, u.Path)
	}
	return nil
}

// TestDocumentedCommandsAreFound: the reading of documents itself.
func TestDocumentedCommandsAreFound(t *testing.T) {
	text := "`weir nodes`, `weir limits set`\n```sh\nA=1 sudo bin/weir limits set '*.x y' --connections 5 \\\n  --shared | weir nodes > f # weir no\nmake a && curl http://h/v1/x\n```\n```\nweir no\n```\n"
	var got []string
	for _, c := range documentedCommands(text) {
		got = append(got, strings.Join(c.words, "|"))
	}
	want := []string{"weir|limits|set|*.x y|--connections|5|--shared", "weir|nodes", "make|a", "curl|http://h/v1/x", "weir|nodes", "weir|limits|set"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for line, ok := range map[string]bool{
		"weir nodes": true, "weir nodse": false, "weir limits set x --connections 5": true, "weir limits set x --conections 5": false,
		"weir limits set": false, "weir limits frob": false, "weir raft remove c": true, "weir nodes x": false, "weir exec -- curl --frob x": true, "weir agent --dev": true,
	} {
		if err := checkWeir(documented{words: strings.Fields(line)}); (err == nil) != ok {
			t.Errorf("%s: %v", line, err)
		}
	}
	paths := apiPaths(t)
	for line, ok := range map[string]bool{
		"curl http://127.0.0.1:8081/v1/nodes": true, "curl http://127.0.0.1:8081/v1/nodse": false, "curl -X POST http://h/v1/nodes": false,
		"curl -X PUT http://h/v1/limits/host/10.0.0.0%2F8 -d {}": true, "curl https://api.example.com/": true, "curl http://h/readyz": true,
	} {
		if err := checkCurl(strings.Fields(line), paths); (err == nil) != ok {
			t.Errorf("%s: %v", line, err)
		}
	}
}
