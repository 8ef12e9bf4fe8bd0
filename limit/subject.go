package limit

import "net/netip"

// Client is a worker's address. It is made once for each accepted connection, so that finding its
// limits allocates nothing.
type Client struct {
	Addr netip.Addr // unmapped, without a zone; the zero Client is nobody's
	Name string     // the same as text: what counts it
}

// ClientOf is the client at an address.
func ClientOf(a netip.Addr) Client {
	if !a.IsValid() {
		return Client{}
	}
	a = a.Unmap().WithZone("")
	return Client{Addr: a, Name: a.String()}
}

// Subject is what limits are looked up for: one connection, request or permit, as far as it is
// known. What is left empty is under no limit of that scope.
type Subject struct {
	Host   Target
	Client Client
	User   string
	Key    string // that a program chose
	// Direct says that a program makes the connection itself, if there is one at all: scope total,
	// which counts what is asked of the proxies, does not count it.
	Direct bool
}

// Find returns the most specific limit of a scope for a subject, and the name that counts it there:
// that of a [Key]. Without a limit it is nil, and the name is the subject's own. It allocates only
// for a wildcard with a port, whose name it has to spell.
func (t *Table) Find(scope Scope, s *Subject) (l *Limit, name string) {
	switch scope {
	case ScopeHost:
		if s.Host.Host == "" {
			return nil, ""
		}
		l, key := t.Match(s.Host)
		return l, key.Name
	case ScopeClient:
		if !s.Client.Addr.IsValid() {
			return nil, ""
		}
		return named(t.clients.find(s.Client.Addr, s.Client.Name), s.Client.Name)
	case ScopeUser:
		return named(t.users.find(s.User), s.User)
	case ScopeKey:
		return named(t.names.find(s.Key), s.Key)
	case ScopeTotal:
		if s.Direct {
			return nil, ""
		}
		return t.total, ""
	case ScopeConnection:
		return t.connection, ""
	}
	return nil, ""
}

// named is what a limit counts a name under.
func named(l *Limit, name string) (*Limit, string) {
	if l != nil && l.Shared {
		return l, l.Pattern.text
	}
	return l, name
}

// addresses are limits by address.
type addresses struct {
	exact  map[string]*Limit
	v4, v6 []cidrs // longest prefix first
	any    *Limit
}

func (a *addresses) add(l *Limit) {
	switch l.Pattern.kind {
	case patternExact:
		if a.exact == nil {
			a.exact = map[string]*Limit{}
		}
		a.exact[l.Pattern.host] = l
	case patternCIDR:
		family := a.family(l.Pattern.prefix.Addr())
		*family = addCIDR(*family, l)
	case patternAny:
		a.any = l
	}
}

func (a *addresses) family(addr netip.Addr) *[]cidrs {
	if addr.Is4() {
		return &a.v4
	}
	return &a.v6
}

func (a *addresses) find(addr netip.Addr, name string) *Limit {
	if l := a.exact[name]; l != nil {
		return l
	}
	if l := findCIDR(*a.family(addr), addr); l != nil {
		return l
	}
	return a.any
}

func (a *addresses) at(p Pattern) *Limit {
	switch p.kind {
	case patternExact:
		return a.exact[p.host]
	case patternCIDR:
		return atCIDR(*a.family(p.prefix.Addr()), p.prefix)
	case patternAny:
		return a.any
	}
	return nil
}

// names are limits by name.
type names struct {
	exact    map[string]*Limit
	prefixes []prefixes // longest first
	any      *Limit
}

// prefixes are those of one length, in bytes.
type prefixes struct {
	length int
	limits map[string]*Limit
}

func (n *names) add(l *Limit) {
	switch l.Pattern.kind {
	case patternExact:
		if n.exact == nil {
			n.exact = map[string]*Limit{}
		}
		n.exact[l.Pattern.host] = l
	case patternPrefix:
		n.prefixes = addPrefix(n.prefixes, l)
	case patternAny:
		n.any = l
	}
}

// find returns the limit of a name; "" is nobody's.
func (n *names) find(name string) *Limit {
	if name == "" {
		return nil
	}
	if l := n.exact[name]; l != nil {
		return l
	}
	for i := range n.prefixes {
		p := &n.prefixes[i]
		if len(name) < p.length {
			continue
		}
		if l := p.limits[name[:p.length]]; l != nil {
			return l
		}
	}
	return n.any
}

func (n *names) at(p Pattern) *Limit {
	switch p.kind {
	case patternExact:
		return n.exact[p.host]
	case patternPrefix:
		for i := range n.prefixes {
			if n.prefixes[i].length == len(p.host) {
				return n.prefixes[i].limits[p.host]
			}
		}
	case patternAny:
		return n.any
	}
	return nil
}
