package leasepb

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

// LimitsMessage says a table of limits, and of which cluster.
func LimitsMessage(cluster string, t *limit.Table) *LeaderMessage {
	m := &Limits{Cluster: cluster, Index: t.Index, ShapeIndex: t.ShapeIndex, Limits: fsmpb.LimitsOf(t.Limits())}
	return &LeaderMessage{Message: &LeaderMessage_Limits{Limits: m}}
}

// Table is the table that a message says.
func (m *Limits) Table() (*limit.Table, error) {
	limits := make([]limit.Limit, len(m.Limits))
	for i, pb := range m.Limits {
		l, err := fsmpb.ParseLimit(pb)
		if err != nil {
			return nil, fmt.Errorf("the leader sent a limit that this node can't read (is the node older?): %w", err)
		}
		limits[i] = l
	}
	return limit.NewTable(m.Index, m.ShapeIndex, limits), nil
}

// VersionOf is the first log version whose nodes can read the limits of a table.
func VersionOf(t *limit.Table) uint32 {
	for i := range t.Limits() {
		l := &t.Limits()[i]
		if l.Pattern.Scope() != limit.ScopeHost || l.Requests != (limit.Rate{}) || l.Bandwidth != (limit.Bandwidth{}) || l.Report {
			return 3
		}
	}
	return 1
}

// MarshalTable encodes limits, for a node to go by at its next start until it hears from the
// cluster.
func MarshalTable(t *limit.Table) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(LimitsMessage("", t))
}

// UnmarshalTable is the inverse.
func UnmarshalTable(b []byte) (*limit.Table, error) {
	var m LeaderMessage
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("not a table of limits: %w", err)
	}
	if m.GetLimits() == nil {
		return nil, errors.New("not a table of limits")
	}
	return m.GetLimits().Table()
}
