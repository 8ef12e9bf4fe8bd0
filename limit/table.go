package limit

import (
	"net/netip"
	"slices"
	"strings"
)

// Table is the effective limits (API over config), immutable and indexed for matching.
type Table struct {
	Index      uint64 // log index of the last change
	ShapeIndex uint64 // log index of the last change of the set of patterns, of a Shared flag, or of whether one has a cap: keys may have moved

	limits []Limit // sorted by pattern; the maps below point into it
	exact  map[string]rules
	suffix map[string]rules
	v4, v6 []cidrs // longest prefix first
	any    *Limit
}

// rules are the limits on one host or suffix.
type rules struct {
	all   *Limit            // without a port
	ports map[uint16]*Limit // never has 0
}

// cidrs are the networks of one prefix length.
type cidrs struct {
	bits int
	nets map[netip.Prefix]*Limit
}

// NewTable indexes limits; a pattern that stands twice is an error in the caller.
func NewTable(index, shape uint64, limits []Limit) *Table {
	limits = slices.Clone(limits)
	slices.SortFunc(limits, func(a, b Limit) int { return strings.Compare(a.Pattern.text, b.Pattern.text) })
	return NewSortedTable(index, shape, limits)
}

// NewSortedTable is [NewTable] of limits that are sorted by pattern. It takes the slice over.
func NewSortedTable(index, shape uint64, limits []Limit) *Table {
	var kinds [patternAny + 1]int
	for i := range limits {
		kinds[limits[i].Pattern.kind]++
	}
	t := &Table{
		Index:      index,
		ShapeIndex: shape,
		limits:     limits,
		exact:      make(map[string]rules, kinds[patternExact]),
		suffix:     make(map[string]rules, kinds[patternSuffix]),
	}
	for i := range limits {
		switch l := &limits[i]; l.Pattern.kind {
		case patternExact:
			addRule(t.exact, l)
		case patternSuffix:
			addRule(t.suffix, l)
		case patternCIDR:
			family := t.family(l.Pattern.prefix.Addr())
			*family = addCIDR(*family, l)
		case patternAny:
			t.any = l
		}
	}
	return t
}

func addRule(m map[string]rules, l *Limit) {
	r := m[l.Pattern.host]
	if l.Pattern.port == 0 {
		r.all = l
	} else {
		if r.ports == nil {
			r.ports = make(map[uint16]*Limit)
		}
		r.ports[l.Pattern.port] = l
	}
	m[l.Pattern.host] = r
}

func addCIDR(family []cidrs, l *Limit) []cidrs {
	bits := l.Pattern.prefix.Bits()
	i, found := slices.BinarySearchFunc(family, bits, func(c cidrs, b int) int { return b - c.bits })
	if !found {
		family = slices.Insert(family, i, cidrs{bits: bits, nets: make(map[netip.Prefix]*Limit)})
	}
	family[i].nets[l.Pattern.prefix] = l
	return family
}

func (t *Table) family(a netip.Addr) *[]cidrs {
	if a.Is4() {
		return &t.v4
	}
	return &t.v6
}

// Match returns the most specific limit for a target, and the key that counts it. Without one
// the limit is nil and the key is the target's host. It allocates only for a wildcard with a port,
// whose key it has to spell.
func (t *Table) Match(target Target) (*Limit, Key) {
	l := t.find(target)
	if l == nil {
		return nil, HostConnections(target.Host)
	}
	return l, l.Pattern.key(target, l.Shared)
}

// find goes from the most to the least specific: exact with port, exact, longest
// wildcard with port, longest wildcard, longest CIDR, "*".
func (t *Table) find(target Target) *Limit {
	if r, ok := t.exact[target.Host]; ok {
		if l := r.ports[target.Port]; l != nil {
			return l
		}
		if r.all != nil {
			return r.all
		}
	}
	var l *Limit
	if target.Addr.IsValid() {
		l = t.findCIDR(target.Addr)
	} else {
		l = t.findSuffix(target)
	}
	if l == nil {
		l = t.any
	}
	return l
}

// findSuffix walks the name's suffixes, longest first. A wildcard with the port
// wins over any without, however long.
func (t *Table) findSuffix(target Target) *Limit {
	if len(t.suffix) == 0 {
		return nil
	}
	var longest *Limit
	for rest := target.Host; ; {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			return longest
		}
		rest = rest[dot+1:]
		r, ok := t.suffix[rest]
		if !ok {
			continue
		}
		if l := r.ports[target.Port]; l != nil {
			return l
		}
		if longest == nil {
			longest = r.all
		}
	}
}

func (t *Table) findCIDR(a netip.Addr) *Limit {
	for _, c := range *t.family(a) {
		p, err := a.Prefix(c.bits)
		if err != nil {
			continue // can't be: the lengths are of the address's family
		}
		if l := c.nets[p]; l != nil {
			return l
		}
	}
	return nil
}

// Governing returns the limit that governs a key: the one under which a target that
// matches it is counted as this key. It is nil where none does, where no target gives this
// key any more (a pattern became shared, or lost its port), and for a name that isn't canonical.
// A shared limit governs its key as long as it exists, also where narrower limits cover
// everything that it could match.
func (t *Table) Governing(key Key) *Limit {
	if key.Scope != ScopeHost || key.Resource != ResourceConnections {
		return nil
	}
	if strings.HasPrefix(key.Name, "*") || strings.Contains(key.Name, "/") {
		p, err := ParsePattern(key.Name)
		if err != nil || p.text != key.Name {
			return nil
		}
		if l := t.at(p); l != nil && l.Shared {
			return l
		}
		return nil
	}
	target, ok := keyTarget(key.Name)
	if !ok {
		return nil
	}
	l, k := t.Match(target)
	if l == nil || k != key {
		return nil
	}
	return l
}

// Direct reports whether a key counts all connections to the host that it names, whatever the port.
func (t *Table) Direct(key Key) bool {
	target, err := ParseHost(key.Name)
	if err != nil || target.Host != key.Name || len(t.exact[target.Host].ports) > 0 {
		return false
	}
	for rest := target.Host; !target.Addr.IsValid() && len(t.suffix) > 0; {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		rest = rest[dot+1:]
		if len(t.suffix[rest].ports) > 0 {
			return false
		}
	}
	_, counted := t.Match(target)
	return counted == key
}

// keyTarget reads the name of a key that is no pattern. A name without a port gives
// port 0, which no limit with a port matches.
func keyTarget(name string) (Target, bool) {
	var t Target
	var err error
	if strings.HasPrefix(name, "[") || strings.Count(name, ":") == 1 {
		t, err = parseOptionalPort(name)
	} else {
		t, err = ParseHost(name)
	}
	var b [maxTargetLen]byte
	return t, err == nil && string(t.appendTo(b[:0])) == name
}

// Limits lists the effective limits, sorted by pattern. The slice is shared: don't change it.
func (t *Table) Limits() []Limit { return t.limits }

// Get returns the effective limit with exactly this pattern.
func (t *Table) Get(p Pattern) (*Limit, bool) {
	l := t.at(p)
	return l, l != nil
}

func (t *Table) at(p Pattern) *Limit {
	switch p.kind {
	case patternExact:
		return t.exact[p.host].at(p.port)
	case patternSuffix:
		return t.suffix[p.host].at(p.port)
	case patternCIDR:
		for _, c := range *t.family(p.prefix.Addr()) {
			if c.bits == p.prefix.Bits() {
				return c.nets[p.prefix]
			}
		}
	case patternAny:
		return t.any
	}
	return nil
}

func (r rules) at(port uint16) *Limit {
	if port == 0 {
		return r.all
	}
	return r.ports[port]
}
