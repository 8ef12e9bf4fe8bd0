package lease

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// MarshalTable encodes limits, for a node to go by at its next start until it hears from the
// cluster.
func MarshalTable(t *limit.Table) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(limitsMessage("", t))
}

// UnmarshalTable is the inverse.
func UnmarshalTable(b []byte) (*limit.Table, error) {
	var m leasepb.LeaderMessage
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("not a table of limits: %w", err)
	}
	if m.GetLimits() == nil {
		return nil, fmt.Errorf("not a table of limits")
	}
	return tableFromProto(m.GetLimits())
}
