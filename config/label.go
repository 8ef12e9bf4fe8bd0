package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A limit's pattern is a string too, so that it takes ${env.NAME}; but it is a block's label, in
// which HCL's parser takes no templates. Such labels are hidden from the parser, and read as the
// expressions that they are.

// labelAt is where a label begins.
type labelAt struct {
	file string
	byte int
}

// hideTemplates answers the source, whose tokens are given, with letters in place of labels that
// hold templates, at the same positions, and where those labels stand. The source itself is not
// changed.
func hideTemplates(source []byte, tokens hclsyntax.Tokens) ([]byte, []hcl.Range) {
	var hidden []hcl.Range
	for i := 0; i < len(tokens); i++ {
		if tokens[i].Type != hclsyntax.TokenOQuote {
			continue
		}
		end, template := closingQuote(tokens, i)
		// No expression begins behind a word or another string: what does is a label.
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

// closingQuote is the token that ends the string that begins at tokens[open], len(tokens) where
// none does, and whether the string holds a template. Strings stand in templates, in turn.
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

// label is the text of a block's label; false if it has a problem, which is told then.
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
