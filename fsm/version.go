package fsm

// What the log may hold has versions, which are only appended to:
//
//	1: Init, OpenSession, CloseSessions, Adjust, PutLimit, DeleteLimit, ReplaceLimits
//	2: and RestoreLimits
//
// A server stops at a command that it doesn't know, rather than drift apart from the others. So
// each says in gossip up to which version, LogVersion, it understands the log, and the leader
// writes a command only once all servers know it: versions of weir can be mixed while they are
// upgraded one after the other. A new command, or a new field of one, needs a new version here; an
// old entry's meaning never changes.

// VersionOf is the first version of the log that has the command.
func VersionOf(c Command) uint32 {
	if _, ok := c.(*RestoreLimits); ok {
		return 2
	}
	return 1
}
