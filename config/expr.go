package config

import (
	"bytes"
	"fmt"
	"math/big"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

const (
	maxNesting   = 32   // brackets, quotes and blocks inside one another
	maxOperators = 1024 // tokens on which the HCL parser recurses and that no config needs
)

// kind is what a value was written as.
type kind string

const (
	kindString kind = "a string"
	kindNumber kind = "a number"
	kindBool   kind = "a boolean"
	kindList   kind = "a list"
	kindNull   kind = "null"
)

// value is what stands behind an attribute's equals sign.
type value struct {
	kind   kind
	text   string // of a string
	number *big.Float
	flag   bool
	list   []value
	at     hcl.Range
}

// fault is what is wrong with one value, before it is known which attribute it belongs to.
type fault struct {
	at      hcl.Range
	message string
	hint    string
}

func (v value) fault(message, hint string) []fault {
	return []fault{{at: v.at, message: message, hint: hint}}
}

// evaluator turns the few expressions that a config may hold into values.
type evaluator struct {
	lookupEnv func(string) (string, bool)
}

// value evaluates literals, lists and templates; anything else is a fault.
func (e evaluator) value(x hclsyntax.Expression) (value, []fault) {
	at := x.Range()
	switch x := x.(type) {
	case *hclsyntax.LiteralValueExpr:
		return literal(x)
	case *hclsyntax.TemplateExpr:
		return e.template(x)
	case *hclsyntax.TemplateWrapExpr:
		return e.text(x.Wrapped, at)
	case *hclsyntax.ScopeTraversalExpr:
		return e.variable(x)
	case *hclsyntax.ParenthesesExpr:
		return e.value(x.Expression)
	case *hclsyntax.TupleConsExpr:
		return e.tuple(x)
	case *hclsyntax.UnaryOpExpr:
		return e.negated(x)
	case *hclsyntax.ExprSyntaxError:
		return value{}, []fault{{at: at}} // the parser has said what is wrong
	case *hclsyntax.FunctionCallExpr:
		return value{}, []fault{{at, fmt.Sprintf("the function %q is not available", x.Name), onlyValues}}
	case *hclsyntax.ObjectConsExpr:
		return value{}, []fault{{at, "an object is not a value here", onlyValues}}
	}
	return value{}, []fault{{at, "an expression is not a value", onlyValues}}
}

const onlyValues = `Write the value itself; only ${env.NAME} is filled in, inside a string.`

func literal(x *hclsyntax.LiteralValueExpr) (value, []fault) {
	v := value{at: x.SrcRange}
	switch {
	case !x.Val.IsKnown():
		return v, []fault{{at: v.at}} // a bad number: the parser has said so
	case x.Val.IsNull():
		v.kind = kindNull
	case x.Val.Type() == cty.String:
		v.kind, v.text = kindString, x.Val.AsString()
	case x.Val.Type() == cty.Number:
		v.kind, v.number = kindNumber, x.Val.AsBigFloat()
	case x.Val.Type() == cty.Bool:
		v.kind, v.flag = kindBool, x.Val.True()
	default:
		return v, v.fault("not a value", onlyValues)
	}
	return v, nil
}

// template joins the parts of a quoted string or heredoc.
func (e evaluator) template(x *hclsyntax.TemplateExpr) (value, []fault) {
	var b strings.Builder
	var faults []fault
	for _, part := range x.Parts {
		v, fs := e.text(part, part.Range())
		faults = append(faults, fs...)
		b.WriteString(v.text)
	}
	return value{kind: kindString, text: b.String(), at: x.SrcRange}, faults
}

// text evaluates what stands inside a string, which must be a string itself.
func (e evaluator) text(x hclsyntax.Expression, at hcl.Range) (value, []fault) {
	v, faults := e.value(x)
	if len(faults) == 0 && v.kind != kindString {
		faults = v.fault(fmt.Sprintf("${…} holds %s", v.kind), onlyValues)
	}
	v.at = at
	return v, faults
}

// variable is env.NAME; the only other thing that parses as one is a word that lacks its quotes.
func (e evaluator) variable(x *hclsyntax.ScopeTraversalExpr) (value, []fault) {
	at := x.SrcRange
	if x.Traversal.RootName() != "env" {
		word := traversalText(x.Traversal)
		return value{}, []fault{{at, fmt.Sprintf("%s is not a value", word), fmt.Sprintf("Write %q, in quotes.", word)}}
	}
	name, ok := envName(x.Traversal)
	if !ok {
		return value{}, []fault{{at, "env takes one name", `Write "${env.NAME}".`}}
	}
	text, ok := e.lookupEnv(name)
	if !ok {
		return value{}, []fault{{at, fmt.Sprintf("the environment variable %q is not set", name), "Set it (it may be empty) in the environment of weir."}}
	}
	return value{kind: kindString, text: text, at: at}, nil
}

// envName is NAME of env.NAME or env["NAME"].
func envName(t hcl.Traversal) (string, bool) {
	if len(t) != 2 {
		return "", false
	}
	switch step := t[1].(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && !step.Key.IsNull() {
			return step.Key.AsString(), true
		}
	}
	return "", false
}

func traversalText(t hcl.Traversal) string {
	names := []string{t.RootName()}
	for _, step := range t[1:] {
		attr, ok := step.(hcl.TraverseAttr)
		if !ok {
			break
		}
		names = append(names, attr.Name)
	}
	return strings.Join(names, ".")
}

func (e evaluator) tuple(x *hclsyntax.TupleConsExpr) (value, []fault) {
	v := value{kind: kindList, at: x.SrcRange}
	var faults []fault
	for _, item := range x.Exprs {
		i, fs := e.value(item)
		v.list = append(v.list, i)
		faults = append(faults, fs...)
	}
	return v, faults
}

// negated is a number with a minus sign, which the grammar has as an operator.
func (e evaluator) negated(x *hclsyntax.UnaryOpExpr) (value, []fault) {
	v, faults := e.value(x.Val)
	if len(faults) > 0 {
		return v, faults
	}
	v.at = x.SrcRange
	if x.Op != hclsyntax.OpNegate || v.kind != kindNumber {
		return v, v.fault("an expression is not a value", onlyValues)
	}
	v.number = new(big.Float).Neg(v.number)
	return v, nil
}

// tooDeep finds where a file nests so deeply that parsing it could exhaust the stack: the HCL
// parser is recursive and has no bound of its own.
func tooDeep(tokens hclsyntax.Tokens) (hcl.Range, bool) {
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote,
			hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote,
			hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth = max(0, depth-1)
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenQuestion, hclsyntax.TokenStar,
			hclsyntax.TokenTemplateControl:
			operators++
		}
		if depth > maxNesting || operators > maxOperators {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}

// shallow reports whether a file certainly does not nest too deeply and holds no template. It
// judges files of plain strings and line comments only: of any other it reports false, and tooDeep
// decides.
func shallow(src []byte) bool {
	for _, beyond := range []string{"${", "%{", "<<", "/*"} {
		if bytes.Contains(src, []byte(beyond)) {
			return false
		}
	}
	depth, operators := 0, 0
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '{', '[', '(':
			depth++
		case '}', ']', ')':
			depth = max(0, depth-1)
		case '!', '-', '?', '*':
			operators++
		case '#':
			i = lineEnd(src, i)
		case '/':
			if i+1 < len(src) && src[i+1] == '/' {
				i = lineEnd(src, i)
			}
		case '"':
			if i = stringEnd(src, i); i == len(src) {
				return false
			}
		}
		if depth >= maxNesting || operators > maxOperators { // a string may be one level more
			return false
		}
	}
	return true
}

// lineEnd is the offset of the next line end, or of the source's end.
func lineEnd(src []byte, from int) int {
	if n := bytes.IndexByte(src[from:], '\n'); n >= 0 {
		return from + n
	}
	return len(src)
}

// stringEnd is the offset of the quote that closes the string opened at from, and len(src) where
// none does on its line.
func stringEnd(src []byte, from int) int {
	for i := from + 1; i < len(src); i++ {
		switch src[i] {
		case '"':
			return i
		case '\\':
			i++
		case '\n', '\r':
			return len(src)
		}
	}
	return len(src)
}
