package fsmpb

import (
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

// ParseKey decodes one. A scope or resource that this version does not know is an error.
func ParseKey(m *Key) (limit.Key, error) {
	if m.GetScope() != Scope_SCOPE_HOST {
		return limit.Key{}, fmt.Errorf("key scope %d", m.GetScope())
	}
	if m.GetResource() != Resource_RESOURCE_CONNECTIONS {
		return limit.Key{}, fmt.Errorf("key resource %d", m.GetResource())
	}
	return limit.HostConnections(m.GetName()), Known(m)
}

// LimitOf encodes a limit.
func LimitOf(l *limit.Limit) *Limit {
	m := &Limit{
		Pattern:     l.Pattern.String(),
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
	return m
}

// ParseLimit decodes one. What this version does not know is an error. It also takes a limit
// without a source, as a replacement's may be: the command says which layer is meant.
func ParseLimit(m *Limit) (limit.Limit, error) {
	pattern, err := ParsePattern(m.GetPattern())
	if err != nil {
		return limit.Limit{}, err
	}
	l := limit.Limit{
		Pattern:     pattern,
		Connections: limit.Unlimited,
		Shared:      m.GetShared(),
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
	if m.GetSource() != Source_SOURCE_UNSPECIFIED {
		if l.Source, err = ParseSource(m.GetSource()); err != nil {
			return limit.Limit{}, err
		}
	}
	return l, Known(m)
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

// ParsePattern takes canonical patterns only. They are ASCII, so that no table of Unicode has a say
// in what the log means.
func ParsePattern(s string) (limit.Pattern, error) {
	p, err := limit.ParsePattern(s)
	if err != nil {
		return limit.Pattern{}, err
	}
	if p.String() != s {
		return limit.Pattern{}, fmt.Errorf("pattern %.100q, which is %q here", s, p.String())
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
