package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
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

func newLimit(pattern string, at Position) Limit {
	return Limit{Pattern: pattern, Connections: Unlimited, At: at}
}

// limits reads the body of a limits block.
func (l *loader) limits(body *hclsyntax.Body) {
	for _, a := range attributes(body) {
		l.unknownAttribute("limits", a)
	}
	for _, b := range body.Blocks {
		if b.Type != "host" {
			l.unknownBlock("limits", b)
			continue
		}
		l.host(b)
	}
}

// host reads one limit. It reports a limit's problems even if its pattern is invalid.
func (l *loader) host(b *hclsyntax.Block) {
	pattern, at, ok := l.pattern(b)
	limit := newLimit(pattern, at)
	l.limitAttributes("limits.host", b.Body, &limit)
	queues := 0
	for _, q := range b.Body.Blocks {
		if q.Type != "queue" {
			l.unknownBlock("limits.host", q)
			continue
		}
		if queues++; queues > 1 {
			l.add(l.position(q.TypeRange), fmt.Sprintf("host %q has two queue blocks", pattern), "Keep one of them.")
			continue
		}
		l.queue(q, &limit)
	}
	l.capped(b)
	l.shared(b, &limit)
	if ok {
		l.cfg.Limits = append(l.cfg.Limits, limit)
	}
}

// pattern checks a host block's label, and that its pattern occurs only once, in any spelling.
func (l *loader) pattern(b *hclsyntax.Block) (canonical string, at Position, ok bool) {
	const hint = `Write host "api.example.com" { … }.`
	if len(b.Labels) == 0 {
		l.add(l.position(b.TypeRange), "a host block has no pattern", hint)
		return "", at, false
	}
	at = l.position(b.LabelRanges[0])
	if len(b.Labels) > 1 {
		l.add(l.position(b.LabelRanges[1]), "a host block has one pattern", "Write a block for each.")
		return b.Labels[0], at, false
	}
	written, ok := l.label(b, 0)
	if !ok {
		return written, at, false
	}
	if written == "" {
		l.add(at, "the pattern is empty", hint)
		return "", at, false
	}
	canonical, err := l.opts.CheckPattern(written)
	if err != nil {
		l.add(at, err.Error(), `A pattern is a host, host:port, *.suffix, *.suffix:port, an address, a CIDR or *.`)
		return written, at, false
	}
	if first, twice := l.patterns[canonical]; twice {
		l.add(at, fmt.Sprintf("%q has a limit already, at %s", canonical, first), "Two spellings of one pattern have one limit: remove one of the two.")
		return canonical, at, false
	}
	l.patterns[canonical] = at
	return canonical, at, true
}

func (l *loader) limitAttributes(path string, body *hclsyntax.Body, limit *Limit) {
	for _, a := range attributes(body) {
		p := join(path, a.Name)
		f, ok := l.shape.limit[p]
		if !ok {
			l.unknownAttribute(path, a)
			continue
		}
		l.faults(p, set(l.eval, f, a, limit))
	}
}

// queue reads a queue block, which needs both of its attributes.
func (l *loader) queue(b *hclsyntax.Block, limit *Limit) {
	const path = "limits.host.queue"
	l.withoutLabels(b)
	l.limitAttributes(path, b.Body, limit)
	for _, inner := range b.Body.Blocks {
		l.unknownBlock(path, inner)
	}
	for _, name := range l.shape.names(path) {
		if _, ok := b.Body.Attributes[name]; !ok {
			l.add(l.position(b.TypeRange), fmt.Sprintf("a queue needs %s", name), `Write queue { timeout = "2s" size = 100 }, one attribute a line.`)
		}
	}
}

// capped refuses a queue without a cap on connections: no request could ever wait in it.
func (l *loader) capped(b *hclsyntax.Block) {
	if _, ok := b.Body.Attributes["connections"]; ok {
		return
	}
	for _, q := range b.Body.Blocks {
		if q.Type == "queue" {
			l.add(l.position(q.TypeRange), "a queue needs connections, the limit to wait for", "Write connections = 5 above it, or remove the queue.")
			return
		}
	}
}

// shared refuses a shared count for a pattern that matches only one host.
func (l *loader) shared(b *hclsyntax.Block, limit *Limit) {
	a, ok := b.Body.Attributes["shared"]
	if ok && limit.Shared && !strings.ContainsAny(limit.Pattern, "*/") {
		l.add(l.position(a.NameRange), fmt.Sprintf("shared has no meaning for %q, which is one host", limit.Pattern),
			`Remove it, or write a wildcard such as "*.example.com".`)
	}
}

func (l *loader) sortLimits() {
	slices.SortFunc(l.cfg.Limits, func(a, b Limit) int { return cmp.Compare(a.Pattern, b.Pattern) })
}
