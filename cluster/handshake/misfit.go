package handshake

import "strings"

// The first bytes of TLS records (RFC 8446, section 5.1). An end without TLS recognises one with it
// by them.
const (
	TLSAlert     byte = 0x15
	TLSHandshake byte = 0x16
)

// Misfit says why two nodes can't talk and how to mend it: somebody has to change a file.
type Misfit struct {
	What, Do string
	Cause    error
	Sentinel error // also matched by errors.Is
}

// Is implements the interface of [errors.Is].
func (m *Misfit) Is(target error) bool { return m.Sentinel != nil && target == m.Sentinel }

// Error implements error.
func (m *Misfit) Error() string {
	text := m.What
	if m.Cause != nil {
		text += " (" + oneLine(m.Cause) + ")"
	}
	return text + ": " + m.Do
}

func (m *Misfit) Unwrap() error { return m.Cause }

// Kind is equal for all misfits of one cause, whichever nodes they concern.
func (m *Misfit) Kind() string {
	if m.Sentinel != nil {
		return m.Sentinel.Error()
	}
	return m.What
}

// oneLine returns an error's text without the line breaks and bullets that libraries add.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

var errPeerWantsTLS = &Misfit{
	What: "the other node takes only TLS, and this one has none",
	Do:   "set cluster.tls here, with a certificate of the same CA",
}

// Plaintext says how unencrypted traffic is treated, on the rpc port and in gossip, if there is a
// certificate or key to encrypt with. All values but PlainRefuse are for moving a running cluster
// from one to the other.
type Plaintext string

// The treatments.
const (
	PlainRefuse Plaintext = "refuse" // unencrypted traffic is refused
	PlainAccept Plaintext = "accept" // this node encrypts, and accepts unencrypted traffic
	PlainSend   Plaintext = "send"   // this node does not encrypt, and accepts encrypted traffic
)
