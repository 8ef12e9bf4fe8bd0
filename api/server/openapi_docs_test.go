package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestAPIDocument: docs/api.md is what openapi.json says, for people.
func TestAPIDocument(t *testing.T) {
	document(t, "../../docs/api.md", func(string) string { return apiDocument(t, readSpec(t)) })
}

func apiDocument(t *testing.T, s spec) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("# HTTP API\n\n<!-- Written from api/server/openapi.json by go test ./api/server -write-docs; a test fails where it differs. -->\n\n")
	fmt.Fprintf(&b, "%s\n\nThe same for programs is at `/v1/openapi.json` of every node, in OpenAPI 3.1. Go programs use the package `api`.\n", s.Info.Description)
	for _, tag := range s.Tags {
		fmt.Fprintf(&b, "\n## %s\n", tag.Description)
		for _, path := range slices.Sorted(maps.Keys(s.Paths)) {
			for _, method := range []string{"get", "put", "post", "delete"} {
				if op := s.Paths[path][method]; op != nil && op.Tags[0] == tag.Name {
					b.WriteString(s.operation(method, path, op))
				}
			}
		}
	}
	b.WriteString("\n## Objects\n")
	for _, name := range slices.Sorted(maps.Keys(s.Components.Schemas)) {
		b.WriteString(s.object(name, s.Components.Schemas[name]))
	}
	return b.String()
}

func (s spec) operation(method, path string, op *operation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s %s\n\n%s.", strings.ToUpper(method), path, op.Summary)
	if op.Description != "" {
		fmt.Fprintf(&b, " %s", op.Description)
	}
	b.WriteString("\n")
	if len(op.Parameters) > 0 {
		b.WriteString("\n| parameter | in | type | meaning |\n| --- | --- | --- | --- |\n")
	}
	for _, p := range op.Parameters {
		if p.Ref != "" {
			p = s.Components.Parameters[p.Ref[strings.LastIndex(p.Ref, "/")+1:]]
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, p.In, p.Schema.inWords(), p.Description)
	}
	if op.RequestBody != nil {
		may := ""
		if !op.RequestBody.Required {
			may = ", which may be left out"
		}
		for _, content := range op.RequestBody.Content {
			fmt.Fprintf(&b, "\nBody: %s%s.\n", content.Schema.inWords(), may)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		if r.Ref != "" {
			continue // a problem, as everywhere
		}
		var bodies []string
		for _, kind := range slices.Sorted(maps.Keys(r.Content)) {
			if kind == "application/json" {
				bodies = append(bodies, r.Content[kind].Schema.inWords())
			} else {
				bodies = append(bodies, "`"+kind+"`")
			}
		}
		fmt.Fprintf(&b, "\n%s: %s", status, r.Description)
		if len(bodies) > 0 {
			fmt.Fprintf(&b, " %s.", strings.Join(bodies, ", "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (s spec) object(name string, sc *schema) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n%s\n", name, sc.Description)
	if len(sc.Properties) == 0 {
		return b.String()
	}
	b.WriteString("\n| field | type | meaning |\n| --- | --- | --- |\n")
	for _, field := range slices.Sorted(maps.Keys(sc.Properties)) {
		p := sc.Properties[field]
		optional := ""
		if !slices.Contains(sc.Required, field) {
			optional = ", may be missing"
		}
		fmt.Fprintf(&b, "| `%s` | %s%s | %s |\n", field, p.inWords(), optional, p.Description)
	}
	return b.String()
}

// inWords is a schema's type, for a table.
func (s *schema) inWords() string {
	switch {
	case s.Ref != "":
		name := s.Ref[strings.LastIndex(s.Ref, "/")+1:]
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	case len(s.OneOf) > 0:
		var words []string
		for _, one := range s.OneOf {
			words = append(words, one.inWords())
		}
		return strings.Join(words, " or ")
	case len(s.Enum) > 0:
		return s.enumInWords()
	case s.Const != nil:
		return quoted(s.Const)
	}
	text := strings.Join(s.types(), " or ")
	switch {
	case text == "":
		return "anything"
	case text == "array":
		return "list of " + s.Items.inWords()
	case text == "object" && len(s.AdditionalProperties) > 0:
		var values schema
		if json.Unmarshal(s.AdditionalProperties, &values) == nil {
			return "object of " + values.inWords()
		}
	case s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("%s, %.0f to %.0f", text, *s.Minimum, *s.Maximum)
	case s.Format == "date-time":
		return "time, RFC 3339"
	}
	return text
}

// enumInWords lists the values that a person would write: null and "" are what leaving a field out
// is, and its description says so.
func (s *schema) enumInWords() string {
	words := slices.DeleteFunc(slices.Clone(s.Enum), func(v any) bool { return v == nil || v == "" })
	text := quoted(words...)
	if slices.Contains(s.Enum, nil) {
		text += " or null"
	}
	return text
}

func quoted(values ...any) string {
	var words []string
	for _, v := range values {
		words = append(words, fmt.Sprintf("`%v`", v))
	}
	return strings.Join(words, ", ")
}

// TestCodesAreDescribed: the contract names every code of a problem, and no other.
func TestCodesAreDescribed(t *testing.T) {
	codes := map[string]bool{}
	for _, row := range errorTable() {
		codes[row.code] = true
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range regexp.MustCompile(`\bproblemf\([\w.]+, "([a-z_]+)"`).FindAllSubmatch(b, -1) {
			codes[string(call[1])] = true
		}
	}
	_, list, _ := strings.Cut(readSpec(t).Components.Schemas["Problem"].Properties["code"].Description, ": ")
	described := strings.Split(strings.TrimSuffix(list, "."), ", ")
	if want := slices.Sorted(maps.Keys(codes)); !slices.Equal(described, want) {
		t.Errorf("described are %q, want %q", described, want)
	}
}
