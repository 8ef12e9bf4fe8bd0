package limit

// Scope says what kind of thing a [Key] names. Numbers are written to the log:
// they are only appended to.
type Scope uint8

// ScopeHost counts per upstream host.
const ScopeHost Scope = 1

// Resource says what a [Key] counts.
type Resource uint8

// ResourceConnections counts concurrently open upstream connections.
const ResourceConnections Resource = 1

// Key names one thing that is counted. It is comparable and canonical: two
// spellings of one host give one Key.
type Key struct {
	Scope    Scope
	Resource Resource
	// Name is, for ScopeHost, a normalised host ("api.example.com", "192.0.2.1",
	// "2001:db8::1"), one with a port ("api.example.com:443", "[2001:db8::1]:443")
	// where the limit names a port, or the pattern itself where it is shared.
	Name string
}

// HostConnections is the key that counts the connections to name.
func HostConnections(name string) Key {
	return Key{Scope: ScopeHost, Resource: ResourceConnections, Name: name}
}

// String is the name, for logs and the API.
func (k Key) String() string { return k.Name }

// Compare orders keys by scope, resource and name.
func (k Key) Compare(o Key) int {
	if k.Scope != o.Scope {
		return int(k.Scope) - int(o.Scope)
	}
	if k.Resource != o.Resource {
		return int(k.Resource) - int(o.Resource)
	}
	switch {
	case k.Name < o.Name:
		return -1
	case k.Name > o.Name:
		return 1
	}
	return 0
}

// Canonical reports whether a key is spelled as the one that a target or a shared pattern gives.
func (k Key) Canonical() bool {
	if k.Scope != ScopeHost || k.Resource != ResourceConnections {
		return false
	}
	if p, err := ParsePattern(k.Name); err == nil && p.text == k.Name {
		return true
	}
	_, ok := keyTarget(k.Name)
	return ok
}
