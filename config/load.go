package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/weirproxy/weir/config/certs"
	"github.com/weirproxy/weir/limit"
)

const maxFileBytes = 16 << 20 // of one config file: some hundred thousand limits

// Options are what Load needs from its caller. The zero Options are usable.
type Options struct {
	// Dev is `weir agent --dev`: no data directory is required, and one that is set is not used.
	Dev bool
	// Running is set by a running node: it accepts an expired certificate, with a warning.
	Running bool
	// Given names attributes that a program has set, by their paths, also where the value is the
	// default: for Complete, which can't see that.
	Given []string
	// LookupEnv resolves ${env.NAME}; nil means os.LookupEnv.
	LookupEnv func(name string) (string, bool)
}

// Load reads files, and directories of *.hcl in name order, as one config. It returns a complete
// config, or nil and every problem found. Without paths it checks the defaults.
func Load(paths []string, opts Options) (*Config, Diagnostics) {
	l := newLoader(opts)
	l.readAll(paths)
	l.parse()
	for _, body := range l.bodies {
		l.block("", body)
	}
	if !l.broken {
		l.resolve()
		l.check()
	}
	if len(l.found) > 0 {
		return nil, l.sorted(l.order)
	}
	l.sortLimits()
	return l.cfg, nil
}

// loader is one run of Load.
type loader struct {
	problems
	opts   Options
	eval   evaluator
	shape  shape
	cfg    *Config
	order  []string // files as read
	bodies []*hclsyntax.Body
	// broken says that a file can't be read or parsed, so a setting that seems to be missing may be
	// in it.
	broken bool
	// faulty holds the attributes whose value was refused. Settings that depend on them are not
	// checked.
	faulty   map[string]bool
	patterns map[limit.Pattern]Position
	hidden   map[labelAt]bool // labels that hideTemplates has hidden
}

func newLoader(opts Options) *loader {
	if opts.LookupEnv == nil {
		opts.LookupEnv = os.LookupEnv
	}
	return &loader{
		problems: problems{files: map[string][]byte{}},
		opts:     opts,
		eval:     evaluator{lookupEnv: opts.LookupEnv},
		shape:    newShape(),
		cfg:      Default(opts.Dev),
		faulty:   map[string]bool{},
		patterns: map[limit.Pattern]Position{},
		hidden:   map[labelAt]bool{},
	}
}

// readAll reads the files.
func (l *loader) readAll(paths []string) {
	for _, path := range paths {
		names, err := expand(path)
		if err != nil {
			l.unreadable(path, err)
		}
		for _, name := range names {
			l.read(name)
		}
	}
}

// expand returns the files that a path stands for.
func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ".hcl") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, errors.New("there are no *.hcl files in the directory")
	}
	return names, nil
}

func (l *loader) read(name string) {
	if _, twice := l.files[name]; twice {
		l.add(Position{File: name}, "the file is named twice", "Name it once: files are merged.")
		return
	}
	src, err := certs.ReadFile(name, maxFileBytes)
	if err != nil {
		l.unreadable(name, err)
		return
	}
	l.files[name] = src
	l.order = append(l.order, name)
}

func (l *loader) unreadable(name string, err error) {
	l.broken = true
	l.add(Position{File: name}, "can't be read: "+certs.Reason(err), "")
}

// parse parses every file that was read. Of a file with syntax errors, the parts that were
// understood are still checked.
func (l *loader) parse() {
	for _, name := range l.order {
		source, at, deep := l.prepare(name)
		if deep {
			l.broken = true
			l.add(l.position(at), "this nests too deeply for a config", "Check the brackets and quotes before it.")
			continue
		}
		file, diags := hclsyntax.ParseConfig(source, name, hcl.InitialPos)
		if diags.HasErrors() {
			l.broken = true
			l.parser(diags)
		}
		if file == nil {
			continue
		}
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			l.bodies = append(l.bodies, body)
		}
	}
}

// prepare returns a file's source for the parser, with labels that hold templates hidden, or the
// place where the file nests too deeply. Lexing costs more than all other work on a file, so a file
// that does not need it is not lexed here. The parser reports the lexer's errors.
func (l *loader) prepare(name string) (source []byte, at hcl.Range, deep bool) {
	source = l.files[name]
	if shallow(source) {
		return source, at, false
	}
	tokens, _ := hclsyntax.LexConfig(source, name, hcl.InitialPos)
	if at, deep = tooDeep(tokens); deep {
		return nil, at, true
	}
	source, hidden := hideTemplates(source, tokens)
	for _, at := range hidden {
		l.hidden[labelAt{name, at.Start.Byte}] = true
	}
	return source, at, false
}

// block reads the body of the block at path ("" for a whole file) into the config.
func (l *loader) block(path string, body *hclsyntax.Body) {
	for _, a := range attributes(body) {
		p := join(path, a.Name)
		f, ok := l.shape.config[p]
		switch {
		case !ok:
			l.unknownAttribute(path, a)
		case l.claim(p, a):
			faults := set(l.eval, f, a, l.cfg)
			l.faulty[p] = len(faults) > 0
			l.faults(p, faults)
		}
	}
	for _, b := range body.Blocks {
		p := join(path, b.Type)
		switch {
		case p == "limits":
			l.withoutLabels(b)
			l.limits(b.Body)
		case l.shape.blocks[p] && !strings.HasPrefix(p, "limits."):
			l.withoutLabels(b)
			if _, seen := l.cfg.Origins[p]; !seen {
				l.cfg.Origins[p] = l.position(b.TypeRange)
			}
			l.block(p, b.Body)
		default:
			l.unknownBlock(path, b)
		}
	}
}

// set evaluates and stores one attribute.
func set[T any](e evaluator, f field[T], a *hclsyntax.Attribute, target *T) []fault {
	v, faults := e.value(a.Expr)
	if len(faults) > 0 {
		return faults
	}
	return f.parse(v, target)
}

// claim records where an attribute is set, and refuses a second setting.
func (l *loader) claim(path string, a *hclsyntax.Attribute) bool {
	at := l.position(a.NameRange)
	if first, twice := l.cfg.Origins[path]; twice {
		l.add(at, fmt.Sprintf("%s is set twice: here and at %s", path, first), "Remove one of the two.")
		return false
	}
	l.cfg.Origins[path] = at
	return true
}

// faults reports the faults of an attribute's value.
func (l *loader) faults(path string, faults []fault) {
	for _, f := range faults {
		if f.message == "" {
			continue // a syntax error, reported by the parser
		}
		l.add(l.position(f.at), path+": "+f.message, f.hint)
	}
}

func (l *loader) withoutLabels(b *hclsyntax.Block) {
	if len(b.LabelRanges) > 0 {
		l.add(l.position(b.LabelRanges[0]), fmt.Sprintf("a %s block has no label", b.Type), fmt.Sprintf("Write %s { … }.", b.Type))
	}
}

func (l *loader) unknownAttribute(path string, a *hclsyntax.Attribute) {
	at := l.position(a.NameRange)
	if l.shape.blocks[join(path, a.Name)] {
		l.add(at, fmt.Sprintf("%q is a block, not an attribute", a.Name), fmt.Sprintf("Write %s { … }, without the equals sign.", l.shape.opening(join(path, a.Name))))
		return
	}
	l.add(at, fmt.Sprintf("unknown attribute %q", a.Name), l.shape.suggest(path, a.Name))
}

func (l *loader) unknownBlock(path string, b *hclsyntax.Block) {
	at := l.position(b.TypeRange)
	if l.shape.isAttribute(join(path, b.Type)) {
		l.add(at, fmt.Sprintf("%q is an attribute, not a block", b.Type), fmt.Sprintf("Write %s = ….", b.Type))
		return
	}
	l.add(at, fmt.Sprintf("unknown block %q", b.Type), l.shape.suggest(path, b.Type))
}

// attributes returns a body's attributes, in the order of the file.
func attributes(body *hclsyntax.Body) []*hclsyntax.Attribute {
	var out []*hclsyntax.Attribute
	for _, a := range body.Attributes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int { return a.SrcRange.Start.Byte - b.SrcRange.Start.Byte })
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
