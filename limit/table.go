package limit

import (
	"net/netip"
	"slices"
	"strings"
)

// Table is the effective limits (API over config), immutable and indexed for matching.
type Table struct {
	Index      uint64 // log index of the last change
	ShapeIndex uint64 // log index of the last change of shape ([Limit.SameShape]): keys may have moved

	limits []Limit // sorted by pattern; what is below points into it
	caps   [ScopeConnection + 1][Download + 1]bool
	capped [Download + 1]bool // in any scope
	named  bool               // see CountsNames

	exact   map[string]rules // hosts
	suffix  map[string]rules
	nets    addresses // hosts that are addresses: CIDRs, and "*"
	clients addresses
	users   names
	names   names // that programs choose
	total   *Limit
	// connection is that of each connection alone.
	connection *Limit
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
	slices.SortFunc(limits, func(a, b Limit) int { return a.Pattern.Compare(b.Pattern) })
	return NewSortedTable(index, shape, limits)
}

// NewSortedTable is [NewTable] of limits that are sorted by pattern. It takes the slice over.
func NewSortedTable(index, shape uint64, limits []Limit) *Table {
	var kinds [patternBare + 1]int // of hosts
	for i := range limits {
		if limits[i].Pattern.scope == ScopeHost {
			kinds[limits[i].Pattern.kind]++
		}
	}
	t := &Table{
		Index:      index,
		ShapeIndex: shape,
		limits:     limits,
		exact:      make(map[string]rules, kinds[patternExact]),
		suffix:     make(map[string]rules, kinds[patternSuffix]),
	}
	for i := range limits {
		l := &limits[i]
		for _, r := range Resources {
			t.caps[l.Pattern.scope][r] = t.caps[l.Pattern.scope][r] || l.Caps(r)
			t.capped[r] = t.capped[r] || l.Caps(r)
		}
		switch l.Pattern.scope {
		case ScopeHost:
			t.addHost(l)
			t.named = t.named || l.countsNames()
		case ScopeClient:
			t.clients.add(l)
		case ScopeUser:
			t.users.add(l)
		case ScopeKey:
			t.names.add(l)
		case ScopeTotal:
			t.total = l
		case ScopeConnection:
			t.connection = l
		}
	}
	return t
}

// CapsAny reports whether any limit of a scope that a connection has caps a resource.
func (t *Table) CapsAny(r Resource) bool {
	return t.caps[ScopeHost][r] || t.caps[ScopeClient][r] || t.caps[ScopeUser][r] || t.caps[ScopeTotal][r]
}

// Paces reports whether any limit, of whatever scope, caps the bandwidth of a direction.
func (t *Table) Paces(direction Resource) bool { return t.capped[direction] }

// Caps reports whether any limit of a scope caps a resource. Where none does, nobody need look for
// one.
func (t *Table) Caps(s Scope, r Resource) bool { return t.caps[s][r] }

// CountsNames reports whether any limit of scope host counts names apart from their addresses.
// Then connections to a name's address, asked for as an address, are not counted with those to the
// name.
func (t *Table) CountsNames() bool { return t.named }

// countsNames: a shared "*" counts names and addresses together.
func (l *Limit) countsNames() bool {
	switch l.Pattern.kind {
	case patternExact:
		_, err := netip.ParseAddr(l.Pattern.host)
		return err != nil
	case patternSuffix:
		return true
	case patternAny:
		return !l.Shared
	}
	return false
}

func (t *Table) addHost(l *Limit) {
	switch l.Pattern.kind {
	case patternExact:
		addRule(t.exact, l)
	case patternSuffix:
		addRule(t.suffix, l)
	case patternCIDR, patternAny:
		t.nets.add(l)
	}
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

func addPrefix(all []prefixes, l *Limit) []prefixes {
	length := len(l.Pattern.host)
	i, found := slices.BinarySearchFunc(all, length, func(p prefixes, n int) int { return n - p.length })
	if !found {
		all = slices.Insert(all, i, prefixes{length: length, limits: map[string]*Limit{}})
	}
	all[i].limits[l.Pattern.host] = l
	return all
}

// Match returns the most specific limit of scope host for a target, and the key that counts its
// connections. Without one the limit is nil and the key is the target's host. It allocates only for
// a wildcard with a port, whose key it has to spell.
func (t *Table) Match(target Target) (*Limit, Key) {
	l := t.find(target)
	if l == nil {
		return nil, HostConnections(target.Host)
	}
	return l, HostConnections(l.Pattern.key(target, l.Shared))
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
		l = findCIDR(*t.nets.family(target.Addr), target.Addr)
	} else {
		l = t.findSuffix(target)
	}
	if l == nil {
		l = t.nets.any
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

func findCIDR(family []cidrs, a netip.Addr) *Limit {
	for i := range family {
		p, err := a.Prefix(family[i].bits)
		if err != nil {
			continue // can't be: the lengths are of the address's family
		}
		if l := family[i].nets[p]; l != nil {
			return l
		}
	}
	return nil
}

func atCIDR(family []cidrs, p netip.Prefix) *Limit {
	for i := range family {
		if family[i].bits == p.Bits() {
			return family[i].nets[p]
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
	if !key.Resource.Known() {
		return nil
	}
	switch key.Scope {
	case ScopeHost:
		return t.governingHost(key.Name)
	case ScopeTotal:
		if key.Name == "" {
			return t.total
		}
	case ScopeConnection:
		if key.Name == "" {
			return t.connection
		}
	case ScopeClient:
		return t.governingClient(key.Name)
	case ScopeUser:
		return governingName(&t.users, key)
	case ScopeKey:
		return governingName(&t.names, key)
	}
	return nil
}

func (t *Table) governingHost(name string) *Limit {
	if strings.HasPrefix(name, "*") || strings.Contains(name, "/") {
		p, err := ParsePattern(name)
		if err != nil || p.text != name {
			return nil
		}
		if l := t.at(p); l != nil && l.Shared {
			return l
		}
		return nil
	}
	target, ok := keyTarget(name)
	if !ok {
		return nil
	}
	l, k := t.Match(target)
	if l == nil || k.Name != name {
		return nil
	}
	return l
}

func (t *Table) governingClient(name string) *Limit {
	if name == "*" || strings.Contains(name, "/") {
		p, err := ScopeClient.ParsePattern(name)
		if err != nil || p.text != name {
			return nil
		}
		if l := t.clients.at(p); l != nil && l.Shared {
			return l
		}
		return nil
	}
	a, err := netip.ParseAddr(name)
	if err != nil || ClientOf(a).Name != name {
		return nil
	}
	if l := t.clients.find(a, name); l != nil && !l.Shared {
		return l
	}
	return nil
}

// governingName looks for a shared pattern first: a name that is spelled as one is counted with
// what matches it.
func governingName(n *names, key Key) *Limit {
	if strings.HasSuffix(key.Name, "*") {
		if p, err := key.Scope.ParsePattern(key.Name); err == nil {
			if l := n.at(p); l != nil && l.Shared {
				return l
			}
		}
	}
	if l := n.find(key.Name); l != nil && !l.Shared && checkLabel(key.Name) == nil {
		return l
	}
	return nil
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
	t, err := ParseOptionalPort(name)
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
	switch p.scope {
	case ScopeClient:
		return t.clients.at(p)
	case ScopeUser:
		return t.users.at(p)
	case ScopeKey:
		return t.names.at(p)
	case ScopeTotal:
		return t.total
	case ScopeConnection:
		return t.connection
	}
	switch p.kind {
	case patternExact:
		return t.exact[p.host].at(p.port)
	case patternSuffix:
		return t.suffix[p.host].at(p.port)
	case patternCIDR, patternAny:
		return t.nets.at(p)
	}
	return nil
}

func (r rules) at(port uint16) *Limit {
	if port == 0 {
		return r.all
	}
	return r.ports[port]
}
