// Package config reads a node's HCL files into plain values.
//
// Load takes files and directories, merges them, and returns either a complete, resolved [Config]
// or every problem that it found, each with its position, its source line and a remedy. Nothing is
// ignored: an unknown attribute is an error.
//
// # Decisions
//
// One table describes every attribute: its path in the file, its Go field, its type, whether a
// reload applies it, and its documentation. Decoding, defaults, the field reference and the
// difference between two configs all come from that table, so they can't disagree. The cost is some
// generic plumbing. Struct tags would have been shorter, but would have tied the file's schema to
// the running values.
//
// A value is a literal, a list of literals, or a string with ${env.NAME} in it. HCL's expressions,
// functions and other variables are refused: a config that computes can't be judged by reading it.
//
// Files are merged by attribute: a block may be spread over several files, but setting an attribute
// twice is an error that names both places. So the order of files never matters.
//
// Relative paths in a config are relative to the working directory of the process, not to the file.
//
// What a limit, its pattern and its rates can be is the limit package's to say: this one adds the
// place in the file, and takes its error texts apart into what is wrong and what to write instead.
package config
