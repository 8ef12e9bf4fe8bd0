package limit

import (
	"cmp"
	"fmt"
	"strings"
)

// Scope says what a limit counts for. Numbers are written to the log: they are only appended to.
type Scope uint8

// The scopes. A connection can be under a limit of each at once.
const (
	ScopeHost       Scope = 1 // the destination
	ScopeClient     Scope = 2 // the worker's address
	ScopeUser       Scope = 3 // who the worker says it is
	ScopeTotal      Scope = 4 // everything that workers ask for
	ScopeKey        Scope = 5 // a name that a program chooses
	ScopeConnection Scope = 6 // every single connection, for itself: it counts nothing, and leases nothing
)

// Scopes lists all scopes in the order in which lists show them.
var Scopes = []Scope{ScopeHost, ScopeClient, ScopeUser, ScopeTotal, ScopeKey, ScopeConnection}

var scopeNames = [...]string{ScopeHost: "host", ScopeClient: "client", ScopeUser: "user", ScopeTotal: "total", ScopeKey: "key", ScopeConnection: "connection"}

// String is the scope's word in configuration, API and metrics.
func (s Scope) String() string {
	if int(s) < len(scopeNames) && s != 0 {
		return scopeNames[s]
	}
	return "unknown"
}

// Known reports whether this version knows the scope.
func (s Scope) Known() bool { return s >= ScopeHost && s <= ScopeConnection }

// Bare reports whether the scope's only limit has no pattern.
func (s Scope) Bare() bool { return s == ScopeTotal || s == ScopeConnection }

// ParseScope reads a scope's word.
func ParseScope(word string) (Scope, error) {
	for _, s := range Scopes {
		if s.String() == word {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%w: %s is no scope: write host, client, user, total, key or connection", ErrInvalid, shorten(word))
}

// Resource says what is counted. Numbers are written to the log: they are only appended to.
type Resource uint8

// The resources. Of connections a slot is leased, of the others, the rates, a share.
const (
	Connections Resource = 1 // open at once
	Requests    Resource = 2 // begun, by time
	Upload      Resource = 3 // bytes from workers, by time
	Download    Resource = 4 // bytes to workers, by time
)

// Resources lists all resources.
var Resources = []Resource{Connections, Requests, Upload, Download}

var resourceNames = [...]string{Connections: "connections", Requests: "requests", Upload: "upload", Download: "download"}

// String is the resource's word in API and metrics.
func (r Resource) String() string {
	if int(r) < len(resourceNames) && r != 0 {
		return resourceNames[r]
	}
	return "unknown"
}

// Known reports whether this version knows the resource.
func (r Resource) Known() bool { return r >= Connections && r <= Download }

// IsRate reports whether the resource is counted by time: all but connections are.
func (r Resource) IsRate() bool { return r != Connections }

// Key names one thing that is counted. It is comparable and canonical: two spellings of one host
// give one Key.
type Key struct {
	Scope    Scope
	Resource Resource
	// Name is the pattern itself where that is shared. Otherwise it is what the limit counts for:
	// a normalised host ("api.example.com", "192.0.2.1", "2001:db8::1"), one with a port
	// ("api.example.com:443", "[2001:db8::1]:443") where the limit names a port, a client's address, a
	// user's name, or a name that a program chose. In scope total it is "".
	Name string
}

// HostConnections is the key that counts the connections to a host.
func HostConnections(name string) Key {
	return Key{Scope: ScopeHost, Resource: Connections, Name: name}
}

// String is the name alone for connections to a host, and says what else is meant otherwise, for
// logs: "client 10.0.0.7 connections".
func (k Key) String() string {
	if k.Scope == ScopeHost && k.Resource == Connections {
		return k.Name
	}
	return strings.TrimSpace(k.Scope.String()+" "+k.Name) + " " + k.Resource.String()
}

// Compare orders keys by scope, resource and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Scope, o.Scope), cmp.Compare(k.Resource, o.Resource), cmp.Compare(k.Name, o.Name))
}

// Canonical reports whether a key is spelled as the one that a subject or a shared pattern gives.
func (k Key) Canonical() bool {
	if !k.Resource.Known() || k.Scope == ScopeConnection {
		return false
	}
	if k.Scope == ScopeTotal {
		return k.Name == ""
	}
	if p, err := k.Scope.ParsePattern(k.Name); err == nil && p.text == k.Name {
		return true
	}
	switch k.Scope {
	case ScopeHost:
		_, ok := keyTarget(k.Name)
		return ok
	case ScopeUser, ScopeKey:
		return checkLabel(k.Name) == nil
	}
	return false
}
