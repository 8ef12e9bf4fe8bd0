// Package gost turns the limiters of a GOST v3 config (limiters, rlimiters and climiters) into
// limits, and says which of its lines mean something else here. It goes by what GOST does rather
// than by what its documentation says: its units are powers of two (1MB is 1 MiB), a value that
// does not parse is no limit, and of two networks that hold an address the wider one counts.
//
// GOST counts each kind of limiter for itself, while a limit here replaces a wider one as a whole.
// So a client's limit is written out with what the client would have had of wider lines.
package gost

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weirproxy/weir/limit"
)

// Warning is a line that means something else here, or nothing.
type Warning struct {
	Line int // of the file, from 1
	Text string
}

// kind is one of GOST's three kinds of limiters.
type kind int

const (
	bandwidth kind = iota
	requests
	connections
)

// kinds are the three, by the name of their list, which is also what services call one, without the
// final s.
var kinds = [...]string{bandwidth: "limiters", requests: "rlimiters", connections: "climiters"}

func (k kind) list() string { return kinds[k] }

func (k kind) reference() string { return kinds[k][:len(kinds[k])-1] }

// limiter is one entry of a list of limiters.
type limiter struct {
	kind  kind
	name  string
	at    int
	lines []line
}

// line is one of its limits, as written.
type line struct {
	text string
	at   int
}

// Convert reads a GOST config, YAML or JSON, of which everything but the limiters and the services'
// references to them is passed over. Without any limiter it is an error.
func Convert(src []byte) ([]limit.Limit, []Warning, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return nil, nil, fmt.Errorf("not YAML: %w", err)
	}
	if len(doc.Content) == 0 || resolve(doc.Content[0]).Kind != yaml.MappingNode {
		return nil, nil, errors.New("not a GOST config: it holds no mapping")
	}
	c := &converter{}
	root := resolve(doc.Content[0])
	var all []limiter
	for k := range kinds {
		all = append(all, c.limiters(root, kind(k))...)
	}
	if len(all) == 0 {
		return nil, nil, errors.New("it has no limiters, rlimiters or climiters")
	}
	for _, l := range c.used(root, all) {
		c.add(l)
	}
	limits := c.limits()
	slices.SortFunc(c.warnings, func(a, b Warning) int { return cmp.Or(a.Line-b.Line, cmp.Compare(a.Text, b.Text)) })
	return limits, c.warnings, nil
}

// converter is one run of Convert.
type converter struct {
	book
	warnings []Warning
}

func (c *converter) warnf(at int, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Line: at, Text: fmt.Sprintf(format, args...)})
}

// limiters reads one list of limiters.
func (c *converter) limiters(root *yaml.Node, k kind) []limiter {
	list := field(root, k.list())
	if list == nil {
		return nil
	}
	if list.Kind != yaml.SequenceNode {
		c.warnf(list.Line, "%s is no list: nothing of it is taken", k.list())
		return nil
	}
	var all []limiter
	for _, item := range list.Content {
		item = resolve(item)
		if item.Kind != yaml.MappingNode {
			c.warnf(item.Line, "an entry of %s is no mapping: it is left out", k.list())
			continue
		}
		l := limiter{kind: k, at: item.Line}
		if name := field(item, "name"); name != nil {
			l.name = name.Value
		}
		for _, elsewhere := range []string{"plugin", "file", "redis", "http"} {
			if n := field(item, elsewhere); n != nil && n.Tag != "!!null" {
				c.warnf(n.Line, "the limits of %s that come from its %s are not in this file, and are left out", title(l), elsewhere)
			}
		}
		if limits := field(item, "limits"); limits != nil {
			l.lines = c.lines(l, limits)
		}
		all = append(all, l)
	}
	return all
}

// lines are a limiter's limits. GOST takes a text in place of a list for one that commas separate.
func (c *converter) lines(l limiter, limits *yaml.Node) []line {
	var lines []line
	switch {
	case limits.Kind == yaml.SequenceNode:
		for _, n := range limits.Content {
			n = resolve(n)
			lines = append(lines, line{text: n.Value, at: n.Line})
		}
	case limits.Kind != yaml.ScalarNode:
		c.warnf(limits.Line, "the limits of %s are no list: nothing of them is taken", title(l))
	case limits.Tag != "!!null" && limits.Value != "":
		for text := range strings.SplitSeq(limits.Value, ",") {
			lines = append(lines, line{text: text, at: limits.Line})
		}
	}
	return lines
}

func title(l limiter) string { return fmt.Sprintf("%s %q", l.kind.reference(), l.name) }

// used leaves out the limiters that no service names. A file without services is a part of a
// config: all of its limiters are used.
func (c *converter) used(root *yaml.Node, all []limiter) []limiter {
	services := field(root, "services")
	named := map[string]bool{}
	if services != nil {
		references(services, named, map[*yaml.Node]bool{})
	}
	first := map[kind]limiter{}
	var used []limiter
	for _, l := range all {
		if services != nil && !named[l.kind.reference()+" "+l.name] {
			c.warnf(l.at, "no service names %s, so GOST does not use it: it is left out", title(l))
			continue
		}
		if before, several := first[l.kind]; several {
			c.warnf(l.at, "GOST applies %s and %s to the services that name them; here all limits hold for everything, and of two for the same the lower is taken", title(before), title(l))
		} else {
			first[l.kind] = l
		}
		used = append(used, l)
	}
	return used
}

// references notes what the services name, as "limiter NAME". Each node is done once: an alias can
// stand in itself.
func references(n *yaml.Node, named map[string]bool, done map[*yaml.Node]bool) {
	n = resolve(n)
	if done[n] {
		return
	}
	done[n] = true
	if n.Kind != yaml.MappingNode {
		for _, item := range n.Content {
			references(item, named, done)
		}
		return
	}
	for name, value := range fields(n) {
		if resolve(value).Kind == yaml.ScalarNode {
			named[name+" "+resolve(value).Value] = true
		} else {
			references(value, named, done)
		}
	}
}

// field is what a mapping has under a name, nil where it has nothing.
func field(n *yaml.Node, name string) *yaml.Node {
	if value := fields(n)[name]; value != nil {
		return resolve(value)
	}
	return nil
}

// fields are what a mapping has, by names in lower case, because to GOST their case means nothing.
// What it merges (<<) is among them where it has nothing of its own.
func fields(n *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	addFields(all, n, map[*yaml.Node]bool{})
	return all
}

// addFields adds the names that are not in all yet, of each node once.
func addFields(all map[string]*yaml.Node, n *yaml.Node, done map[*yaml.Node]bool) {
	n = resolve(n)
	if done[n] {
		return
	}
	done[n] = true
	switch n.Kind {
	case yaml.SequenceNode: // of mappings to merge
		for _, item := range n.Content {
			addFields(all, item, done)
		}
	case yaml.MappingNode:
		var merged []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := resolve(n.Content[i]), n.Content[i+1]
			if key.Tag == "!!merge" {
				merged = append(merged, value)
			} else if name := strings.ToLower(key.Value); all[name] == nil {
				all[name] = value
			}
		}
		for _, m := range merged {
			addFields(all, m, done)
		}
	}
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
