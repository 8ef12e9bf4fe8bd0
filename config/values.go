package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/weirproxy/weir/limit"
)

// Complete makes a config of values that a program has set, beginning with [Default]: it fills in
// what follows from them and reads the files that they name, as Load does, and returns every
// problem. Problems name attributes and have no place. What differs from the default counts as set,
// and what opts say is given.
//
// A listener without an address is off: [Proxy.Listen] may be empty, and [API.Listen] "". A token
// and users may be given without a file.
func (c *Config) Complete(opts Options) Diagnostics {
	l := newLoader(opts)
	defaults := l.cfg
	given := *c
	l.cfg = c
	c.Origins = map[string]Position{}
	for _, f := range configFields() {
		if f.same(c, defaults) && !slices.Contains(opts.Given, f.Path) {
			continue
		}
		for p := f.Path; p != ""; p = parent(p) {
			c.Origins[p] = Position{}
		}
		l.checkValue(f)
	}
	l.resolve()
	if c.Proxy.UsersFile == "" {
		c.Proxy.Users = given.Proxy.Users
	}
	c.API.Token = cmp.Or(c.API.Token, given.API.Token)
	c.API.ReadToken = cmp.Or(c.API.ReadToken, given.API.ReadToken)
	l.check()
	l.checkLimits()
	c.Origins = map[string]Position{}
	l.sortLimits()
	return l.found
}

// checkValue checks one attribute as if it were written in a file.
func (l *loader) checkValue(f field[Config]) {
	text := f.text(l.cfg)
	if text == `""` || f.Path == "cluster.gossip_key" || f.Path == "cluster.gossip_accept_keys" {
		return // a listener that is off; secrets show no value
	}
	literal := strings.NewReplacer("${", "$${", "%{", "%%{").Replace(text)
	expr, diags := hclsyntax.ParseExpression([]byte(literal), f.Path, hcl.InitialPos)
	if diags.HasErrors() {
		l.faulty[f.Path] = true
		l.add(Position{}, fmt.Sprintf("%s: %s is no value", f.Path, text), "")
		return
	}
	var scratch Config
	v, faults := l.eval.value(expr)
	if len(faults) == 0 {
		faults = f.parse(v, &scratch)
	}
	for _, fault := range faults {
		l.faulty[f.Path] = true
		l.add(Position{}, f.Path+": "+fault.message, fault.hint)
	}
}

// checkLimits checks each limit, and that no two are for one pattern.
func (l *loader) checkLimits() {
	seen := map[limit.Pattern]bool{}
	for i := range l.cfg.Limits {
		one := &l.cfg.Limits[i]
		if err := one.Validate(); err != nil {
			message, hint := remedy(err, "")
			l.add(Position{}, message, hint)
		}
		if seen[one.Pattern] {
			l.add(Position{}, fmt.Sprintf("there are two limits for %s", one.Name()), "Keep one of them.")
		}
		seen[one.Pattern] = true
	}
	for _, key := range slices.Concat(l.cfg.Cluster.GossipAcceptKeys, []Secret{l.cfg.Cluster.GossipKey}) {
		if n := len(key); n != 0 && n != 16 && n != 24 && n != 32 {
			l.add(Position{}, fmt.Sprintf("a gossip key holds %d bytes", n), "A key has 16, 24 or 32 bytes.")
		}
	}
}
