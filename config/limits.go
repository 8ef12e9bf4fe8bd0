package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/weirproxy/weir/limit"
)

// LoadLimits reads only the limits of a file or directory, for `weir limits apply`, and skips the
// other blocks of a node's config. A missing limits block is an error, because applying it would
// delete every limit; an empty block shows that this is intended.
func LoadLimits(path string, opts Options) ([]Limit, Diagnostics) {
	l := newLoader(opts)
	l.readAll([]string{path})
	l.parse()
	found := false
	for _, body := range l.bodies {
		found = l.limitsOnly(body) || found
	}
	if !found && !l.broken && len(l.found) == 0 {
		l.add(l.fileStart(l.order[0]), "there is no limits block", "Write limits { host \"…\" { connections = 5 } }; an empty limits { } deletes every limit.")
	}
	if len(l.found) > 0 {
		return nil, l.sorted(l.order)
	}
	l.sortLimits()
	return l.cfg.Limits, nil
}

// limitsOnly reads a file's limits blocks, and reports whether there are any. Names that a config
// does not have are still errors: otherwise a misspelt limits block would count as none.
func (l *loader) limitsOnly(body *hclsyntax.Body) (found bool) {
	for _, a := range attributes(body) {
		if !l.shape.isAttribute(a.Name) {
			l.unknownAttribute("", a)
		}
	}
	for _, b := range body.Blocks {
		switch {
		case b.Type == "limits":
			found = true
			l.withoutLabels(b)
			l.limits(b.Body)
		case !l.shape.blocks[b.Type]:
			l.unknownBlock("", b)
		}
	}
	return found
}

// limits reads the body of a limits block.
func (l *loader) limits(body *hclsyntax.Body) {
	for _, a := range attributes(body) {
		l.unknownAttribute("limits", a)
	}
	for _, b := range body.Blocks {
		scope, err := limit.ParseScope(b.Type)
		if err != nil {
			l.unknownBlock("limits", b)
			continue
		}
		l.limit(scope, b)
	}
}

// limit reads one limit. It reports a limit's problems even if its pattern is invalid.
func (l *loader) limit(scope limit.Scope, b *hclsyntax.Block) {
	path := "limits." + b.Type
	before := len(l.found)
	pattern, at, ok := l.pattern(scope, b)
	d := newDraft(pattern, at)
	l.limitAttributes(path, b.Body, &d)
	l.limitBlocks(path, scope, b, &d)
	l.capped(b)
	l.shared(scope, b, &d)
	if !ok {
		return
	}
	done := d.finish()
	if err := done.Validate(); err != nil && len(l.found) == before { // nothing else has said what is wrong
		message, hint := remedy(err, "")
		l.add(at, message, hint)
	}
	l.cfg.Limits = append(l.cfg.Limits, done)
}

// limitBlocks reads the blocks in a limit's, of which each may stand once.
func (l *loader) limitBlocks(path string, scope limit.Scope, b *hclsyntax.Block, d *draft) {
	seen := map[string]bool{}
	for _, inner := range b.Body.Blocks {
		p := join(path, inner.Type)
		switch {
		case !l.shape.blocks[p]:
			l.unknownBlock(path, inner)
		case seen[inner.Type]:
			l.add(l.position(inner.TypeRange), fmt.Sprintf("%s has two %s blocks", title(scope, d), inner.Type), "Keep one of them.")
		default:
			seen[inner.Type] = true
			l.limitBlock(p, inner, d)
		}
	}
}

// title names a limit as its block begins.
func title(scope limit.Scope, d *draft) string {
	if scope.Bare() || !d.Pattern.IsValid() {
		return "the " + scope.String() + " block"
	}
	return fmt.Sprintf("%s %q", scope, d.Pattern)
}

// needed are the attributes without which a block in a limit means nothing, and an example of it.
var needed = map[string]struct {
	all, any []string // all of these; one of those
	example  string
}{
	"queue":     {all: []string{"timeout", "size"}, example: `Write queue { timeout = "2s" size = 100 }, one attribute a line.`},
	"requests":  {all: []string{"rate"}, example: `Write requests { rate = "10/s" }.`},
	"bandwidth": {any: []string{"upload", "download"}, example: `Write bandwidth { download = "10MB" }.`},
}

// limitBlock reads a requests, bandwidth or queue block.
func (l *loader) limitBlock(path string, b *hclsyntax.Block, d *draft) {
	l.withoutLabels(b)
	l.limitAttributes(path, b.Body, d)
	for _, inner := range b.Body.Blocks {
		l.unknownBlock(path, inner)
	}
	has := func(name string) bool { _, ok := b.Body.Attributes[name]; return ok }
	needs := needed[b.Type]
	for _, name := range needs.all {
		if !has(name) {
			l.add(l.position(b.TypeRange), fmt.Sprintf("a %s block needs %s", b.Type, name), needs.example)
		}
	}
	if len(needs.any) > 0 && !slices.ContainsFunc(needs.any, has) {
		l.add(l.position(b.TypeRange), fmt.Sprintf("a %s block needs %s, or both", b.Type, strings.Join(needs.any, " or ")), needs.example)
	}
}

// pattern checks a limit's label, and that no other limit of the scope has it in any spelling.
func (l *loader) pattern(scope limit.Scope, b *hclsyntax.Block) (p limit.Pattern, at Position, ok bool) {
	at = l.position(b.TypeRange)
	var written string
	switch {
	case scope.Bare() && len(b.Labels) > 0:
		l.add(l.position(b.LabelRanges[0]), fmt.Sprintf("a %s block has no pattern: there is one such limit", scope), fmt.Sprintf("Write %s { … }.", scope))
		return p, at, false
	case scope.Bare():
	case len(b.Labels) == 0:
		l.add(at, fmt.Sprintf("a %s block has no pattern", scope), patternExample(scope))
		return p, at, false
	case len(b.Labels) > 1:
		l.add(l.position(b.LabelRanges[1]), fmt.Sprintf("a %s block has one pattern", scope), "Write a block for each.")
		return p, at, false
	default:
		at = l.position(b.LabelRanges[0])
		if written, ok = l.label(b, 0); !ok {
			return p, at, false
		}
		if written == "" {
			l.add(at, "the pattern is empty", patternExample(scope))
			return p, at, false
		}
	}
	p, err := scope.ParsePattern(written)
	if err != nil {
		l.add(at, err.Error(), fmt.Sprintf("A pattern is %s.", scope.PatternForms()))
		return limit.Pattern{}, at, false
	}
	if first, twice := l.patterns[p]; twice {
		l.add(at, fmt.Sprintf("%s has a limit already, at %s", patternTitle(p), first), secondHint(p))
		return p, at, false
	}
	l.patterns[p] = at
	return p, at, true
}

func patternTitle(p limit.Pattern) string {
	if p.Scope() == limit.ScopeHost {
		return fmt.Sprintf("%q", p)
	}
	if p.Scope().Bare() {
		return p.Scope().String()
	}
	return fmt.Sprintf("%s %q", p.Scope(), p)
}

func secondHint(p limit.Pattern) string {
	if p.Scope().Bare() {
		return "Write everything into one block."
	}
	return "Two spellings of one pattern have one limit: remove one of the two."
}

func patternExample(scope limit.Scope) string {
	example := map[limit.Scope]string{
		limit.ScopeHost: "api.example.com", limit.ScopeClient: "10.0.0.0/8", limit.ScopeUser: "nightly", limit.ScopeKey: "tenant/*",
	}[scope]
	return fmt.Sprintf("Write %s %q { … }.", scope, example)
}

func (l *loader) limitAttributes(path string, body *hclsyntax.Body, d *draft) {
	for _, a := range attributes(body) {
		p := join(path, a.Name)
		f, ok := l.shape.limit[p]
		if !ok {
			l.unknownAttribute(path, a)
			continue
		}
		l.faults(p, set(l.eval, f, a, d))
	}
}

// capped refuses a queue without a cap on connections or requests: no request could ever wait in
// it.
func (l *loader) capped(b *hclsyntax.Block) {
	if _, ok := b.Body.Attributes["connections"]; ok {
		return
	}
	var queue *hclsyntax.Block
	for _, inner := range b.Body.Blocks {
		switch inner.Type {
		case "requests":
			return
		case "queue":
			queue = inner
		}
	}
	if queue != nil && l.shape.blocks[join("limits."+b.Type, "queue")] {
		l.add(l.position(queue.TypeRange), "a queue needs connections or requests, the limit to wait for", "Write connections = 5 above it, or remove the queue.")
	}
}

// shared refuses a shared count for a pattern that matches only one thing.
func (l *loader) shared(scope limit.Scope, b *hclsyntax.Block, d *draft) {
	a, ok := b.Body.Attributes["shared"]
	if ok && d.Shared && d.Pattern.IsValid() && !d.Pattern.Wildcard() {
		l.add(l.position(a.NameRange), fmt.Sprintf("shared has no meaning for %q, which is one %s", d.Pattern, scope),
			fmt.Sprintf("Remove it, or write %s.", scope.WildcardForms()))
	}
}

func (l *loader) sortLimits() {
	slices.SortFunc(l.cfg.Limits, func(a, b Limit) int { return a.Pattern.Compare(b.Pattern) })
}
