package fsmpb

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/limit"
)

// KeyOf encodes a key.
func KeyOf(k limit.Key) *Key {
	return &Key{Scope: Scope(k.Scope), Resource: Resource(k.Resource), Name: Text(k.Name)}
}

// ParseKey decodes one. A scope or resource that this version does not know, or that no key has, is
// an error.
func ParseKey(m *Key) (limit.Key, error) {
	k := limit.Key{Scope: limit.Scope(m.GetScope()), Resource: limit.Resource(m.GetResource()), Name: m.GetName()}
	if Scope(k.Scope) != m.GetScope() || !k.Scope.Known() || k.Scope == limit.ScopeConnection {
		return limit.Key{}, fmt.Errorf("key scope %d", m.GetScope())
	}
	if Resource(k.Resource) != m.GetResource() || !k.Resource.Known() {
		return limit.Key{}, fmt.Errorf("key resource %d", m.GetResource())
	}
	return k, Known(m)
}

// LimitOf encodes a limit.
func LimitOf(l *limit.Limit) *Limit {
	m := &Limit{
		Pattern:     l.Pattern.String(),
		Scope:       ScopeOf(l.Pattern),
		Report:      l.Report,
		Shared:      l.Shared,
		Evict:       l.Evict,
		Source:      Source(l.Source),
		ModifyIndex: l.ModifyIndex,
	}
	if l.Connections != limit.Unlimited {
		m.Connections = &l.Connections
	}
	if l.Queue != (limit.Queue{}) {
		m.Queue = &Queue{TimeoutNs: int64(l.Queue.Timeout), Size: int64(l.Queue.Size)}
	}
	if r := l.Requests; r != (limit.Rate{}) {
		m.Requests = &Rate{Thousandths: r.Thousandths, PerNs: int64(r.Per), Burst: r.Burst}
	}
	if b := l.Bandwidth; b != (limit.Bandwidth{}) {
		m.Bandwidth = &Bandwidth{Upload: b.Upload, Download: b.Download, Burst: b.Burst}
	}
	return m
}

// ScopeOf encodes the scope of a limit's pattern. That of a host is left out, as it was when there
// was no other.
func ScopeOf(p limit.Pattern) Scope {
	if p.Scope() == limit.ScopeHost {
		return Scope_SCOPE_UNSPECIFIED
	}
	return Scope(p.Scope())
}

// ParseLimit decodes one. What this version does not know is an error. It also takes a limit
// without a source, as a replacement's may be: the command says which layer is meant.
func ParseLimit(m *Limit) (limit.Limit, error) {
	pattern, err := ParsePattern(m.GetScope(), m.GetPattern())
	if err != nil {
		return limit.Limit{}, err
	}
	l := limit.Limit{
		Pattern:     pattern,
		Connections: limit.Unlimited,
		Shared:      m.GetShared(),
		Report:      m.GetReport(),
		Evict:       m.GetEvict(),
		ModifyIndex: m.GetModifyIndex(),
	}
	if m.Connections != nil {
		l.Connections = *m.Connections
	}
	if q := m.GetQueue(); q != nil {
		if err := Known(q); err != nil {
			return limit.Limit{}, err
		}
		// The size must not depend on the machine's word. What is cut here is out of bounds, and
		// stays so.
		size := min(max(q.GetSize(), math.MinInt32), math.MaxInt32)
		l.Queue = limit.Queue{Timeout: time.Duration(q.GetTimeoutNs()), Size: int(size)}
	}
	if err := parseRates(m, &l); err != nil {
		return limit.Limit{}, err
	}
	if m.GetSource() != Source_SOURCE_UNSPECIFIED {
		if l.Source, err = ParseSource(m.GetSource()); err != nil {
			return limit.Limit{}, err
		}
	}
	return l, Known(m)
}

// parseRates decodes a limit's rates. One that is there and says nothing would have no encoding of
// its own.
func parseRates(m *Limit, l *limit.Limit) error {
	if r := m.GetRequests(); r != nil {
		l.Requests = limit.Rate{Thousandths: r.GetThousandths(), Per: time.Duration(r.GetPerNs()), Burst: r.GetBurst()}
		if l.Requests == (limit.Rate{}) {
			return errors.Join(errors.New("requests without a rate"), Known(r))
		}
		if err := Known(r); err != nil {
			return err
		}
	}
	if b := m.GetBandwidth(); b != nil {
		l.Bandwidth = limit.Bandwidth{Upload: b.GetUpload(), Download: b.GetDownload(), Burst: b.GetBurst()}
		if l.Bandwidth == (limit.Bandwidth{}) {
			return errors.Join(errors.New("bandwidth without a rate"), Known(b))
		}
		return Known(b)
	}
	return nil
}

// LimitsOf encodes several limits.
func LimitsOf(limits []limit.Limit) []*Limit {
	ms := make([]*Limit, len(limits))
	for i := range limits {
		ms[i] = LimitOf(&limits[i])
	}
	return ms
}

// ParseLimits decodes several, as [ParseLimit] does one.
func ParseLimits(ms []*Limit) ([]limit.Limit, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	limits := make([]limit.Limit, len(ms))
	for i, m := range ms {
		l, err := ParseLimit(m)
		if err != nil {
			return nil, err
		}
		limits[i] = l
	}
	return limits, nil
}

// ParseSource decodes the name of a layer of limits.
func ParseSource(m Source) (limit.Source, error) {
	if m != Source_SOURCE_API && m != Source_SOURCE_CONFIG {
		return 0, fmt.Errorf("source %d", m)
	}
	return limit.Source(m), nil
}

// ParsePattern takes canonical patterns only, and an absent scope as that of hosts. What a pattern
// means must not depend on a table of Unicode: those of hosts are ASCII, and names are compared by
// their bytes.
func ParsePattern(scope Scope, text string) (limit.Pattern, error) {
	of := limit.ScopeHost
	if scope != Scope_SCOPE_UNSPECIFIED {
		of = limit.Scope(scope)
		if Scope(of) != scope || !of.Known() || of == limit.ScopeHost {
			return limit.Pattern{}, fmt.Errorf("limit scope %d", scope)
		}
	}
	p, err := of.ParsePattern(text)
	if err != nil {
		return limit.Pattern{}, err
	}
	if p.String() != text {
		return limit.Pattern{}, fmt.Errorf("pattern %.100q, which is %q here", text, p.String())
	}
	return p, nil
}

// Known refuses fields that this version has no name for.
func Known(m proto.Message) error {
	if r := m.ProtoReflect(); len(r.GetUnknown()) > 0 {
		return fmt.Errorf("a field of %s that is unknown here", r.Descriptor().Name())
	}
	return nil
}

// Text is s as protobuf takes it.
func Text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
