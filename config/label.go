package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A limit's pattern may contain ${env.NAME}, like any string. But it is a block's label, and HCL's
// parser accepts no templates there. Such labels are hidden from the parser, and read as
// expressions later.

// labelAt is the position of a label.
type labelAt struct {
	file string
	byte int
}

// hideTemplates returns a copy of the source, whose tokens are given, in which letters replace
// labels with templates, and the positions of those labels.
func hideTemplates(source []byte, tokens hclsyntax.Tokens) ([]byte, []hcl.Range) {
	var hidden []hcl.Range
	for i := 0; i < len(tokens); i++ {
		if tokens[i].Type != hclsyntax.TokenOQuote {
			continue
		}
		end, template := closingQuote(tokens, i)
		// A string after a word or another string is a label: no expression begins there.
		label := i > 0 && (tokens[i-1].Type == hclsyntax.TokenIdent || tokens[i-1].Type == hclsyntax.TokenCQuote)
		if label && template && end < len(tokens) {
			hidden = append(hidden, hcl.RangeBetween(tokens[i].Range, tokens[end].Range))
		}
		i = end
	}
	if len(hidden) == 0 {
		return source, nil
	}
	source = bytes.Clone(source)
	for _, r := range hidden {
		for i := r.Start.Byte + 1; i < r.End.Byte-1; i++ {
			source[i] = 'x'
		}
	}
	return source, hidden
}

// closingQuote returns the token that ends the string at tokens[open], or len(tokens) if none does,
// and whether the string holds a template. Templates may contain strings again.
func closingQuote(tokens hclsyntax.Tokens, open int) (end int, template bool) {
	depth := 0
	for i := open; i < len(tokens); i++ {
		switch tokens[i].Type {
		case hclsyntax.TokenOQuote:
			depth++
		case hclsyntax.TokenCQuote:
			if depth--; depth == 0 {
				return i, template
			}
		case hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			template = true
		}
	}
	return len(tokens), template
}

// label returns the text of a block's label. It returns false, after reporting it, if the label has
// a problem.
func (l *loader) label(b *hclsyntax.Block, i int) (string, bool) {
	at := b.LabelRanges[i]
	if !l.hidden[labelAt{at.Filename, at.Start.Byte}] {
		return b.Labels[i], true
	}
	x, diags := hclsyntax.ParseExpression(at.SliceBytes(l.files[at.Filename]), at.Filename, at.Start)
	if diags.HasErrors() {
		l.parser(diags)
		return "", false
	}
	v, faults := l.eval.value(x)
	l.faults("limits."+b.Type, faults)
	return v.text, len(faults) == 0
}
