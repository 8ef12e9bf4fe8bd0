package fsm

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

// encodingVersion is the first byte of every entry. It rises when an entry's
// meaning changes in a way that a server of the version before would get wrong.
const encodingVersion byte = 1

// ErrNewer is wrapped by errors about an entry or snapshot that can't be read
// because, as far as one can tell, a newer weir wrote it.
var ErrNewer = errors.New("this server is older than what it reads: upgrade weir on it and start it again; its data is kept")

// Encode returns the entry: a version byte, then protobuf. The same command always
// gives the same bytes. Text that is not UTF-8 is made so. A command that Decode would refuse
// (the zero Pattern, a reason, source, scope or resource without a name) is the caller's
// mistake and panics: in the log it would stop every server, and at each start again.
func Encode(c Command) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{encodingVersion}, commandToPB(c))
	if err == nil {
		_, err = Decode(b)
	}
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", c, err))
	}
	return b
}

// Decode is the inverse. It is strict: an unknown version, command, field or enum number,
// and a pattern that isn't canonical, is an error that wraps [ErrNewer]: to skip what this
// version doesn't know would let replicas drift apart. Values that are known but invalid
// are not its matter: applying them is refused, everywhere alike.
func Decode(b []byte) (Command, error) {
	if len(b) == 0 {
		return nil, errors.New("the log entry is empty: the log is damaged; stop this server, remove its data_dir and let it join again")
	}
	if b[0] != encodingVersion {
		return nil, fmt.Errorf("a log entry has version %d, known is %d: %w", b[0], encodingVersion, ErrNewer)
	}
	var m fsmpb.Command
	if err := proto.Unmarshal(b[1:], &m); err != nil {
		return nil, fmt.Errorf("a log entry is no protobuf (%v): the log is damaged; stop this server, remove its data_dir and let it join again", err)
	}
	c, err := commandFromPB(&m)
	if err != nil {
		return nil, fmt.Errorf("a log entry has %w: %w", err, ErrNewer)
	}
	if v := VersionOf(c); v > LogVersion {
		return nil, fmt.Errorf("a log entry needs log version %d, known is %d: %w", v, LogVersion, ErrNewer)
	}
	return c, nil
}

func commandToPB(c Command) *fsmpb.Command {
	switch c := c.(type) {
	case *Init:
		return &fsmpb.Command{Command: &fsmpb.Command_Init{Init: &fsmpb.Init{
			ClusterId: text(c.ClusterID), TtlNs: int64(c.TTL), Limits: limitsToPB(c.Limits),
		}}}
	case *OpenSession:
		return &fsmpb.Command{Command: &fsmpb.Command_OpenSession{OpenSession: &fsmpb.OpenSession{
			Term: c.Term, Node: text(c.Node), Identity: text(c.Identity),
		}}}
	case *CloseSessions:
		return &fsmpb.Command{Command: &fsmpb.Command_CloseSessions{CloseSessions: &fsmpb.CloseSessions{
			Term: c.Term, Sessions: c.Sessions, Reason: fsmpb.CloseReason(c.Reason),
		}}}
	case *Adjust:
		return &fsmpb.Command{Command: &fsmpb.Command_Adjust{Adjust: adjustToPB(c)}}
	case *PutLimit:
		return &fsmpb.Command{Command: &fsmpb.Command_PutLimit{PutLimit: &fsmpb.PutLimit{
			Limit: limitToPB(&c.Limit), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *DeleteLimit:
		return &fsmpb.Command{Command: &fsmpb.Command_DeleteLimit{DeleteLimit: &fsmpb.DeleteLimit{
			Pattern: c.Pattern.String(), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *ReplaceLimits:
		return &fsmpb.Command{Command: &fsmpb.Command_ReplaceLimits{ReplaceLimits: &fsmpb.ReplaceLimits{
			Source: fsmpb.Source(c.Source), Limits: limitsToPB(c.Limits), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *RestoreLimits:
		return &fsmpb.Command{Command: &fsmpb.Command_RestoreLimits{RestoreLimits: &fsmpb.RestoreLimits{
			Limits: limitsToPB(c.Limits), Precondition: preconditionToPB(c.Precondition),
		}}}
	}
	panic(fmt.Sprintf("encode: %T is no command of this package", c))
}

func commandFromPB(m *fsmpb.Command) (Command, error) {
	if err := known(m); err != nil {
		return nil, err
	}
	switch m := m.Command.(type) {
	case *fsmpb.Command_Init:
		return initFromPB(m.Init)
	case *fsmpb.Command_OpenSession:
		o := m.OpenSession
		return &OpenSession{Term: o.GetTerm(), Node: o.GetNode(), Identity: o.GetIdentity()}, known(o)
	case *fsmpb.Command_CloseSessions:
		return closeSessionsFromPB(m.CloseSessions)
	case *fsmpb.Command_Adjust:
		return adjustFromPB(m.Adjust)
	case *fsmpb.Command_PutLimit:
		return putLimitFromPB(m.PutLimit)
	case *fsmpb.Command_DeleteLimit:
		return deleteLimitFromPB(m.DeleteLimit)
	case *fsmpb.Command_ReplaceLimits:
		return replaceLimitsFromPB(m.ReplaceLimits)
	case *fsmpb.Command_RestoreLimits:
		return restoreLimitsFromPB(m.RestoreLimits)
	}
	return nil, errors.New("no command that is known")
}

func initFromPB(m *fsmpb.Init) (Command, error) {
	limits, err := limitsFromPB(m.GetLimits())
	return &Init{ClusterID: m.GetClusterId(), TTL: time.Duration(m.GetTtlNs()), Limits: limits}, errors.Join(err, known(m))
}

func closeSessionsFromPB(m *fsmpb.CloseSessions) (Command, error) {
	reason := m.GetReason()
	if reason != fsmpb.CloseReason_CLOSE_REASON_EXPIRED && reason != fsmpb.CloseReason_CLOSE_REASON_LEFT {
		return nil, fmt.Errorf("close reason %d", reason)
	}
	return &CloseSessions{Term: m.GetTerm(), Sessions: m.GetSessions(), Reason: CloseReason(reason)}, known(m)
}

func adjustToPB(c *Adjust) *fsmpb.Adjust {
	m := &fsmpb.Adjust{Term: c.Term, Batch: c.Batch, Adjustments: make([]*fsmpb.Adjustment, len(c.Adjustments))}
	for i, a := range c.Adjustments {
		m.Adjustments[i] = &fsmpb.Adjustment{Session: a.Session, Key: keyToPB(a.Key), Delta: a.Delta}
	}
	return m
}

func adjustFromPB(m *fsmpb.Adjust) (Command, error) {
	c := &Adjust{Term: m.GetTerm(), Batch: m.GetBatch()}
	if n := len(m.GetAdjustments()); n > 0 {
		c.Adjustments = make([]Adjustment, n)
	}
	for i, a := range m.GetAdjustments() {
		key, err := keyFromPB(a.GetKey())
		if err := errors.Join(err, known(a)); err != nil {
			return nil, err
		}
		c.Adjustments[i] = Adjustment{Session: a.GetSession(), Key: key, Delta: a.GetDelta()}
	}
	return c, known(m)
}

func putLimitFromPB(m *fsmpb.PutLimit) (Command, error) {
	if m.GetLimit() == nil {
		return nil, errors.New("a write without a limit")
	}
	l, err := limitFromPB(m.GetLimit())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &PutLimit{Limit: l, Precondition: p}, errors.Join(err, known(m))
}

func deleteLimitFromPB(m *fsmpb.DeleteLimit) (Command, error) {
	pattern, err := patternFromPB(m.GetPattern())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &DeleteLimit{Pattern: pattern, Precondition: p}, errors.Join(err, known(m))
}

func replaceLimitsFromPB(m *fsmpb.ReplaceLimits) (Command, error) {
	source, err := sourceFromPB(m.GetSource())
	if err != nil {
		return nil, err
	}
	limits, err := limitsFromPB(m.GetLimits())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &ReplaceLimits{Source: source, Limits: limits, Precondition: p}, errors.Join(err, known(m))
}

func restoreLimitsFromPB(m *fsmpb.RestoreLimits) (Command, error) {
	limits, err := limitsFromPB(m.GetLimits())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &RestoreLimits{Limits: limits, Precondition: p}, errors.Join(err, known(m))
}

func preconditionToPB(p Precondition) *fsmpb.Precondition {
	if p == (Precondition{}) {
		return nil
	}
	return &fsmpb.Precondition{MatchIndex: p.MatchIndex, MustExist: p.MustExist, MustNotExist: p.MustNotExist}
}

func preconditionFromPB(m *fsmpb.Precondition) (Precondition, error) {
	if m == nil {
		return Precondition{}, nil
	}
	return Precondition{MatchIndex: m.MatchIndex, MustExist: m.GetMustExist(), MustNotExist: m.GetMustNotExist()}, known(m)
}

func limitsToPB(limits []limit.Limit) []*fsmpb.Limit {
	ms := make([]*fsmpb.Limit, len(limits))
	for i := range limits {
		ms[i] = limitToPB(&limits[i])
	}
	return ms
}

func limitsFromPB(ms []*fsmpb.Limit) ([]limit.Limit, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	limits := make([]limit.Limit, len(ms))
	for i, m := range ms {
		l, err := limitFromPB(m)
		if err != nil {
			return nil, err
		}
		limits[i] = l
	}
	return limits, nil
}

func limitToPB(l *limit.Limit) *fsmpb.Limit {
	m := &fsmpb.Limit{
		Pattern:     l.Pattern.String(),
		Shared:      l.Shared,
		Evict:       l.Evict,
		Source:      fsmpb.Source(l.Source),
		ModifyIndex: l.ModifyIndex,
	}
	if l.Connections != limit.Unlimited {
		m.Connections = &l.Connections
	}
	if l.Queue != (limit.Queue{}) {
		m.Queue = &fsmpb.Queue{TimeoutNs: int64(l.Queue.Timeout), Size: int64(l.Queue.Size)}
	}
	return m
}

// limitFromPB also takes a limit without a source, as a replacement's may be: the
// command says which layer is meant.
func limitFromPB(m *fsmpb.Limit) (limit.Limit, error) {
	pattern, err := patternFromPB(m.GetPattern())
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
		if err := known(q); err != nil {
			return limit.Limit{}, err
		}
		// The size must not depend on the machine's word. What is cut here is out of
		// bounds, and stays so.
		size := min(max(q.GetSize(), math.MinInt32), math.MaxInt32)
		l.Queue = limit.Queue{Timeout: time.Duration(q.GetTimeoutNs()), Size: int(size)}
	}
	if m.GetSource() != fsmpb.Source_SOURCE_UNSPECIFIED {
		if l.Source, err = sourceFromPB(m.GetSource()); err != nil {
			return limit.Limit{}, err
		}
	}
	return l, known(m)
}

func sourceFromPB(m fsmpb.Source) (limit.Source, error) {
	if m != fsmpb.Source_SOURCE_API && m != fsmpb.Source_SOURCE_CONFIG {
		return 0, fmt.Errorf("source %d", m)
	}
	return limit.Source(m), nil
}

// patternFromPB takes canonical patterns only. They are ASCII, so that no table of
// Unicode has a say in what the log means.
func patternFromPB(s string) (limit.Pattern, error) {
	p, err := limit.ParsePattern(s)
	if err != nil {
		return limit.Pattern{}, err
	}
	if p.String() != s {
		return limit.Pattern{}, fmt.Errorf("pattern %.100q, which is %q here", s, p.String())
	}
	return p, nil
}

func keyToPB(k limit.Key) *fsmpb.Key {
	return &fsmpb.Key{Scope: fsmpb.Scope(k.Scope), Resource: fsmpb.Resource(k.Resource), Name: text(k.Name)}
}

func keyFromPB(m *fsmpb.Key) (limit.Key, error) {
	if m.GetScope() != fsmpb.Scope_SCOPE_HOST {
		return limit.Key{}, fmt.Errorf("key scope %d", m.GetScope())
	}
	if m.GetResource() != fsmpb.Resource_RESOURCE_CONNECTIONS {
		return limit.Key{}, fmt.Errorf("key resource %d", m.GetResource())
	}
	return limit.HostConnections(m.GetName()), known(m)
}

// known refuses fields that this version has no name for.
func known(m proto.Message) error {
	if r := m.ProtoReflect(); len(r.GetUnknown()) > 0 {
		return fmt.Errorf("a field of %s that is unknown here", r.Descriptor().Name())
	}
	return nil
}

// text is s as protobuf takes it.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
