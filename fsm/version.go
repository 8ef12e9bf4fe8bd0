package fsm

import "github.com/weirproxy/weir/limit"

// What the log may hold has versions, which are only appended to:
//
//	1: Init, OpenSession, CloseSessions, Adjust, PutLimit, DeleteLimit, ReplaceLimits
//	2: and RestoreLimits
//	3: and limits of other scopes than host, of requests and of bandwidth, and in mode report; their
//	   keys, levels, and keys that are forgotten
//
// A server stops at a command that it doesn't know, rather than drift apart from the others. So
// each says in gossip up to which version, LogVersion, it understands the log, and the leader
// writes a command only once all servers know it: versions of weir can be mixed while they are
// upgraded one after the other. The version is that of the content: what has always been written
// is written on in the midst of an upgrade. A new command, or a new field of one, needs a new
// version here; an old entry's meaning never changes.

// VersionOf is the first version of the log that has the command, with all that it says.
func VersionOf(c Command) uint32 {
	switch c := c.(type) {
	case *Init:
		return versionOfLimits(c.Limits)
	case *Adjust:
		return versionOfAdjust(c)
	case *PutLimit:
		return versionOfLimit(&c.Limit)
	case *DeleteLimit:
		return versionOfPattern(c.Pattern)
	case *ReplaceLimits:
		return versionOfLimits(c.Limits)
	case *RestoreLimits:
		return max(2, versionOfLimits(c.Limits))
	}
	return 1
}

func versionOfAdjust(c *Adjust) uint32 {
	if len(c.Forget) > 0 {
		return 3
	}
	for i := range c.Adjustments {
		if a := &c.Adjustments[i]; a.Level != 0 || versionOfKey(a.Key) > 1 {
			return 3
		}
	}
	return 1
}

func versionOfKey(k limit.Key) uint32 {
	if k.Scope != limit.ScopeHost || k.Resource != limit.Connections {
		return 3
	}
	return 1
}

func versionOfPattern(p limit.Pattern) uint32 {
	if p.Scope() != limit.ScopeHost {
		return 3
	}
	return 1
}

func versionOfLimit(l *limit.Limit) uint32 {
	if l.Requests != (limit.Rate{}) || l.Bandwidth != (limit.Bandwidth{}) || l.Report {
		return 3
	}
	return versionOfPattern(l.Pattern)
}

func versionOfLimits(limits []limit.Limit) uint32 {
	for i := range limits {
		if v := versionOfLimit(&limits[i]); v > 1 {
			return v
		}
	}
	return 1
}

// LogVersion is the version of the log that a server must know to hold this state. One that knows
// less has stopped at an entry or a snapshot before, so nobody need be asked before more of that
// version is written: a server that can't be asked must not stop grants that it has agreed to.
func (s *State) LogVersion() uint32 {
	if s.limitsVersion > 1 {
		return s.limitsVersion
	}
	// Only what outlives its limit is left: a few keys, for a while.
	for key := range s.grants {
		if v := versionOfKey(key); v > 1 {
			return v
		}
	}
	return 1
}

// version is that of all limits: of those that hold, and of the config's that others cover.
func (y *layers) version(effective []limit.Limit) uint32 {
	v := versionOfLimits(effective)
	if len(y.api) == 0 || len(y.config) == 0 {
		return v
	}
	for _, l := range y.config {
		v = max(v, versionOfLimit(l))
	}
	return v
}
