// Package fsmpb is the encoding of the replicated state: the messages of fsm.proto, and the
// conversions of limits and keys, which also travel between nodes. Decoding is strict: what this
// version does not know is an error, since to skip it would let replicas drift apart.
package fsmpb
