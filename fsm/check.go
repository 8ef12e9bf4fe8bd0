package fsm

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// Check verifies the invariants; for tests and for a snapshot that was just read. It names
// everything that is broken, in a fixed order. That a sum of grants lies above its limit is
// no breach: the limit may have been lowered.
func (s *State) Check() error {
	return errors.Join(s.checkSettings(), s.checkSessions(), s.checkGrants(), s.checkLimits())
}

func (s *State) checkSettings() error {
	switch {
	case (s.clusterID == "") != (s.ttl == 0):
		return fmt.Errorf("cluster id %q has ttl %v: they are set together", s.clusterID, s.ttl)
	case s.ttl < 0:
		return fmt.Errorf("the ttl is %v", s.ttl)
	case s.batchTerm != 0 && s.batch == 0:
		return fmt.Errorf("term %d has batch 0: they start at 1", s.batchTerm)
	}
	return nil
}

func (s *State) checkSessions() error {
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(s.sessions)) {
		switch session := s.sessions[id]; {
		case session.ID != id || id == 0 || id > s.index:
			errs = append(errs, fmt.Errorf("session %d stands under %d at index %d", session.ID, id, s.index))
		case session.Node == "" || session.Identity == "":
			errs = append(errs, fmt.Errorf("session %d has no node or identity", id))
		case s.names[session.Node] != id:
			errs = append(errs, fmt.Errorf("session %d of node %q is not the node's, which is %d", id, session.Node, s.names[session.Node]))
		}
	}
	if len(s.names) != len(s.sessions) {
		errs = append(errs, fmt.Errorf("%d nodes have %d sessions", len(s.names), len(s.sessions)))
	}
	return errors.Join(errs...)
}

func (s *State) checkGrants() error {
	var errs []error
	for _, key := range s.grants.keys() {
		if err := s.checkHolding(key, s.grants[key]); err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", key.Name, err))
		}
		if !key.Canonical() {
			errs = append(errs, fmt.Errorf("key %q of scope %d and resource %d is not canonical", key.Name, key.Scope, key.Resource))
		}
	}
	return errors.Join(errs...)
}

func (s *State) checkHolding(key limit.Key, h *holding) error {
	r := key.Resource
	most := limit.MaxConnections
	if r.IsRate() {
		most = limit.Shares
	}
	var sum int64
	var last uint64
	for _, g := range h.slots {
		if _, open := s.sessions[g.Session]; !open {
			return fmt.Errorf("session %d holds slots and is not open", g.Session)
		}
		if g.Session <= last {
			return fmt.Errorf("session %d stands behind %d", g.Session, last)
		}
		if g.Slots <= 0 || g.Slots > most {
			return fmt.Errorf("session %d holds %d slots", g.Session, g.Slots)
		}
		sum += g.Slots
		last = g.Session
	}
	switch {
	case sum != h.total:
		return fmt.Errorf("the grants add up to %d, not %d", sum, h.total)
	case sum > most:
		return fmt.Errorf("%d slots are granted, more than any limit allows", sum)
	case sum == 0 && !r.IsRate():
		return errors.New("an entry without grants was kept")
	}
	return errors.Join(checkLevel(r, h), checkBurst(s.table.Governing(key), r, h))
}

// checkLevel: no level lies above what the free shares hold under the largest limit that there can
// be. That of the limit in force says nothing: it may have been lowered since the level was
// written.
func checkLevel(r limit.Resource, h *holding) error {
	if !r.IsRate() && h.level != 0 {
		return fmt.Errorf("a level of %d grains, of what has none", h.level)
	}
	if h.level < 0 || h.level > part(maxBurst(r), limit.Shares-h.total, limit.Shares) {
		return fmt.Errorf("a level of %d grains in %d free shares, more than any limit allows", h.level, limit.Shares-h.total)
	}
	return nil
}

// checkBurst: the burst under which a rate is held is known.
func checkBurst(l *limit.Limit, r limit.Resource, h *holding) error {
	if !r.IsRate() && h.burst != 0 {
		return fmt.Errorf("a burst of %d grains, of what has none", h.burst)
	}
	if h.burst < 0 || h.burst > maxBurst(r) {
		return fmt.Errorf("a burst of %d grains, more than any limit allows", h.burst)
	}
	if now := l.BurstGrains(r); h.total > 0 && h.burst < now {
		return fmt.Errorf("a largest burst of %d grains, below the present one of %d", h.burst, now)
	}
	return nil
}

// maxBurst is the size of the largest bucket that a limit can make, in grains.
func maxBurst(r limit.Resource) int64 {
	switch r {
	case limit.Connections:
		return 0
	case limit.Requests:
		return limit.MaxRequests * limit.TokenGrains
	}
	return limit.MaxBandwidth
}

func (s *State) checkLimits() error {
	var errs []error
	for _, source := range []limit.Source{limit.SourceAPI, limit.SourceConfig} {
		layer := s.layers.of(source)
		for _, pattern := range slices.SortedFunc(maps.Keys(layer), limit.Pattern.Compare) {
			l := layer[pattern]
			if err := l.Validate(); err != nil {
				errs = append(errs, err)
			}
			if l.Pattern != pattern || l.Source != source || l.ModifyIndex == 0 || l.ModifyIndex > s.table.Index {
				errs = append(errs, fmt.Errorf("limit %q of %v stands under %q in the layer %v, modified at %d with the table at %d",
					l.Name(), l.Source, pattern.Name(), source, l.ModifyIndex, s.table.Index))
			}
		}
	}
	if t := s.table; t.ShapeIndex > t.Index || t.Index > s.index {
		errs = append(errs, fmt.Errorf("the table's shape is of %d, the table of %d, the state of %d", t.ShapeIndex, t.Index, s.index))
	}
	if !slices.Equal(s.layers.all(), s.table.Limits()) {
		errs = append(errs, errors.New("the table is not that of the limits"))
	}
	return errors.Join(errs...)
}
