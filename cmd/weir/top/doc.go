// Package top is what `weir top` and `weir hosts --watch` show on a terminal: nodes, hosts with
// their use as bars, one host with its nodes and connections.
//
// A [Model] is fed with what the node's event stream tells ([Model.Take]), with keys ([Model.Key]),
// with the terminal's size and with the time, and answers with the screen's text ([Model.Frame]).
// It does no I/O, starts nothing and reads no clock: the same calls give the same frames, which is
// how it is tested. Who owns the terminal and the connection feeds it.
//
// # Decisions
//
// It is fed from the stream, not by asking for pages of hosts. The stream sends the whole use once
// and then only what has changed, at most once a second for all who follow, so that thousands of
// hosts cost little; sorting, by rates too, and filtering are then a matter of one process's
// memory, and answer a key at once. The cost is that a first message may be some megabytes, and
// that of more hosts than a node sends (10000) only the busiest are there; their number is shown.
//
// Names come from others. Nothing of them reaches the terminal but printable characters: see
// [Clean].
package top
