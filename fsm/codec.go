package fsm

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
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
			ClusterId: fsmpb.Text(c.ClusterID), TtlNs: int64(c.TTL), Limits: fsmpb.LimitsOf(c.Limits),
		}}}
	case *OpenSession:
		return &fsmpb.Command{Command: &fsmpb.Command_OpenSession{OpenSession: &fsmpb.OpenSession{
			Term: c.Term, Node: fsmpb.Text(c.Node), Identity: fsmpb.Text(c.Identity),
		}}}
	case *CloseSessions:
		return &fsmpb.Command{Command: &fsmpb.Command_CloseSessions{CloseSessions: &fsmpb.CloseSessions{
			Term: c.Term, Sessions: c.Sessions, Reason: fsmpb.CloseReason(c.Reason),
		}}}
	case *Adjust:
		return &fsmpb.Command{Command: &fsmpb.Command_Adjust{Adjust: adjustToPB(c)}}
	case *PutLimit:
		return &fsmpb.Command{Command: &fsmpb.Command_PutLimit{PutLimit: &fsmpb.PutLimit{
			Limit: fsmpb.LimitOf(&c.Limit), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *DeleteLimit:
		return &fsmpb.Command{Command: &fsmpb.Command_DeleteLimit{DeleteLimit: &fsmpb.DeleteLimit{
			Pattern: c.Pattern.String(), Scope: fsmpb.ScopeOf(c.Pattern), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *ReplaceLimits:
		return &fsmpb.Command{Command: &fsmpb.Command_ReplaceLimits{ReplaceLimits: &fsmpb.ReplaceLimits{
			Source: fsmpb.Source(c.Source), Limits: fsmpb.LimitsOf(c.Limits), Precondition: preconditionToPB(c.Precondition),
		}}}
	case *RestoreLimits:
		return &fsmpb.Command{Command: &fsmpb.Command_RestoreLimits{RestoreLimits: &fsmpb.RestoreLimits{
			Limits: fsmpb.LimitsOf(c.Limits), Precondition: preconditionToPB(c.Precondition),
		}}}
	}
	panic(fmt.Sprintf("encode: %T is no command of this package", c))
}

func commandFromPB(m *fsmpb.Command) (Command, error) {
	if err := fsmpb.Known(m); err != nil {
		return nil, err
	}
	switch m := m.Command.(type) {
	case *fsmpb.Command_Init:
		return initFromPB(m.Init)
	case *fsmpb.Command_OpenSession:
		o := m.OpenSession
		return &OpenSession{Term: o.GetTerm(), Node: o.GetNode(), Identity: o.GetIdentity()}, fsmpb.Known(o)
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
	limits, err := fsmpb.ParseLimits(m.GetLimits())
	return &Init{ClusterID: m.GetClusterId(), TTL: time.Duration(m.GetTtlNs()), Limits: limits}, errors.Join(err, fsmpb.Known(m))
}

func closeSessionsFromPB(m *fsmpb.CloseSessions) (Command, error) {
	reason := m.GetReason()
	if reason != fsmpb.CloseReason_CLOSE_REASON_EXPIRED && reason != fsmpb.CloseReason_CLOSE_REASON_LEFT {
		return nil, fmt.Errorf("close reason %d", reason)
	}
	return &CloseSessions{Term: m.GetTerm(), Sessions: m.GetSessions(), Reason: CloseReason(reason)}, fsmpb.Known(m)
}

func adjustToPB(c *Adjust) *fsmpb.Adjust {
	m := &fsmpb.Adjust{Term: c.Term, Batch: c.Batch, Adjustments: make([]*fsmpb.Adjustment, len(c.Adjustments))}
	for i, a := range c.Adjustments {
		m.Adjustments[i] = &fsmpb.Adjustment{Session: a.Session, Key: fsmpb.KeyOf(a.Key), Delta: a.Delta, Level: a.Level}
	}
	for _, key := range c.Forget {
		m.Forget = append(m.Forget, fsmpb.KeyOf(key))
	}
	return m
}

func adjustFromPB(m *fsmpb.Adjust) (Command, error) {
	c := &Adjust{Term: m.GetTerm(), Batch: m.GetBatch()}
	if n := len(m.GetAdjustments()); n > 0 {
		c.Adjustments = make([]Adjustment, n)
	}
	for i, a := range m.GetAdjustments() {
		key, err := fsmpb.ParseKey(a.GetKey())
		if err := errors.Join(err, fsmpb.Known(a)); err != nil {
			return nil, err
		}
		c.Adjustments[i] = Adjustment{Session: a.GetSession(), Key: key, Delta: a.GetDelta(), Level: a.GetLevel()}
	}
	for _, k := range m.GetForget() {
		key, err := fsmpb.ParseKey(k)
		if err != nil {
			return nil, err
		}
		c.Forget = append(c.Forget, key)
	}
	return c, fsmpb.Known(m)
}

func putLimitFromPB(m *fsmpb.PutLimit) (Command, error) {
	if m.GetLimit() == nil {
		return nil, errors.New("a write without a limit")
	}
	l, err := fsmpb.ParseLimit(m.GetLimit())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &PutLimit{Limit: l, Precondition: p}, errors.Join(err, fsmpb.Known(m))
}

func deleteLimitFromPB(m *fsmpb.DeleteLimit) (Command, error) {
	pattern, err := fsmpb.ParsePattern(m.GetScope(), m.GetPattern())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &DeleteLimit{Pattern: pattern, Precondition: p}, errors.Join(err, fsmpb.Known(m))
}

func replaceLimitsFromPB(m *fsmpb.ReplaceLimits) (Command, error) {
	source, err := fsmpb.ParseSource(m.GetSource())
	if err != nil {
		return nil, err
	}
	limits, err := fsmpb.ParseLimits(m.GetLimits())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &ReplaceLimits{Source: source, Limits: limits, Precondition: p}, errors.Join(err, fsmpb.Known(m))
}

func restoreLimitsFromPB(m *fsmpb.RestoreLimits) (Command, error) {
	limits, err := fsmpb.ParseLimits(m.GetLimits())
	if err != nil {
		return nil, err
	}
	p, err := preconditionFromPB(m.GetPrecondition())
	return &RestoreLimits{Limits: limits, Precondition: p}, errors.Join(err, fsmpb.Known(m))
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
	return Precondition{MatchIndex: m.MatchIndex, MustExist: m.GetMustExist(), MustNotExist: m.GetMustNotExist()}, fsmpb.Known(m)
}
