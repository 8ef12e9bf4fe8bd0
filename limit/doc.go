// Package limit says what a limit is and which one governs a connection. It is pure: no Raft, no
// protobuf, no clock. A [Pattern] says what a [Limit] is for, a [Target] is where a worker wants to
// go, and a [Table] finds the most specific limit for it, and the [Key] under which it is counted.
// Everything that is compared is normalised first, so that two spellings of one host never get two
// counts.
//
// A host that is written in ASCII is only lowered and checked, and patterns in the log are ASCII:
// which Unicode tables a server was built with decides how it reads a worker's request, never what
// the log means. The cost is that an "xn--" label that no tool would make is counted by its
// letters, which is how the DNS sees it.
//
// Each change of the limits builds a new [Table], in time proportional to their number (a
// millisecond or so for a thousand), and in return a match takes no lock and next to no memory.
package limit
