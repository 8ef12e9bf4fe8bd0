package fsm

import (
	"slices"
	"strings"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

// KeyToProto encodes a key for a message between nodes.
func KeyToProto(k limit.Key) *fsmpb.Key { return keyToPB(k) }

// KeyFromProto decodes one. A scope or resource that this version does not know is an error.
func KeyFromProto(m *fsmpb.Key) (limit.Key, error) { return keyFromPB(m) }

// LimitToProto encodes a limit for a message between nodes.
func LimitToProto(l limit.Limit) *fsmpb.Limit { return limitToPB(&l) }

// LimitFromProto decodes one. What this version does not know is an error.
func LimitFromProto(m *fsmpb.Limit) (limit.Limit, error) { return limitFromPB(m) }

// ConfigLimits lists the config layer, sorted by pattern: also what the API's limits cover.
func (s *State) ConfigLimits() []limit.Limit {
	all := make([]limit.Limit, 0, len(s.layers.config))
	for _, l := range s.layers.config {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b limit.Limit) int { return strings.Compare(a.Pattern.String(), b.Pattern.String()) })
	return all
}
