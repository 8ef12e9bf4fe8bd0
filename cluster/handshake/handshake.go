package handshake

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// Timeout bounds a handshake.
const Timeout = 5 * time.Second

// Doorkeeper does this node's part of the handshake that begins a connection between nodes, at
// either end:
//
//	preface →            the connection's purpose, and the node that opens it
//	        ← greeting, answer   the node that listens, its verdict, and a nonce
//	nonce →              before anything else
//
// The nonce costs a round trip for each connection. It proves that the dialling end has read the
// answer, which a client of a proxy can't (see [Greeting]). Both ends judge whether the other
// belongs to their cluster, and both can log the reason.
type Doorkeeper struct {
	Name     string
	ServerID string // "" takes any target
	Of       *Affiliation
	// Introduction, if not nil, adds the changing facts about this node.
	Introduction func(*clusterpb.Introduction)
	// Heard, if not nil, receives the preface of each node that has read the answer, even if that
	// node is refused.
	Heard func(p *clusterpb.Preface, from net.Addr)
}

func (d *Doorkeeper) introduce() *clusterpb.Introduction {
	i := &clusterpb.Introduction{Node: d.Name, Cluster: d.Of.Cluster()}
	if d.Introduction != nil {
		d.Introduction(i)
	}
	return i
}

// Open asks for admission on a connection that was just dialled, and returns the other node. The
// caller has set a deadline and closes the connection on an error.
func (d *Doorkeeper) Open(conn net.Conn, k Kind, target string, at string, how Meeting) (*clusterpb.Introduction, error) {
	preface, err := AppendPreface(nil, &clusterpb.Preface{Kind: k, Target: target, From: d.introduce()})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(preface); err != nil {
		return nil, err
	}
	answer, err := readAnswer(conn)
	if err != nil {
		return nil, err
	}
	other := answer.GetFrom()
	if k != KindProbe { // even if this end refuses: the other node believes the preface only now
		if _, err := conn.Write(answer.GetNonce()); err != nil {
			return other, err
		}
	}
	if err := d.Of.judge(other, at, how); err != nil {
		return other, err
	}
	switch answer.GetVerdict() {
	case clusterpb.Verdict_VERDICT_ACCEPTED:
	case clusterpb.Verdict_VERDICT_OTHER_SERVER:
		return other, ErrWrongServer
	case clusterpb.Verdict_VERDICT_UNDECIDED:
		return other, errUndecided
	case clusterpb.Verdict_VERDICT_WRONG_PORT:
		return other, fmt.Errorf("node %s at %s takes no such connection on that port: check which of its ports the address names", other.GetNode(), at)
	default:
		return other, fmt.Errorf("node %s at %s refuses the connection (%s)", other.GetNode(), at, answer.GetVerdict())
	}
	return other, nil
}

// Answer admits or refuses a connection that was just accepted and begins with preface, on a port
// that takes the kinds that fit. The caller has set a deadline and closes the connection on an
// error.
func (d *Doorkeeper) Answer(conn net.Conn, preface *clusterpb.Preface, fits func(Kind) bool) error {
	how := MetAccepted
	if preface.GetTarget() != "" && preface.GetTarget() == d.ServerID {
		how = MetMeant
	}
	verdict, refused := d.judge(preface, conn.RemoteAddr(), how, fits)
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails
	answer, err := appendAnswer(nil, &clusterpb.Answer{Verdict: verdict, Nonce: nonce, From: d.introduce()})
	if err != nil {
		return err
	}
	if _, err := conn.Write(answer); err != nil {
		return cmp.Or(refused, err)
	}
	if preface.GetKind() == KindProbe {
		return refused
	}
	if err := confirm(conn, nonce); err != nil {
		return cmp.Or(refused, err)
	}
	if d.Heard != nil {
		d.Heard(preface, conn.RemoteAddr())
	}
	if refused != nil {
		return refused
	}
	return d.Of.follow(preface.GetFrom(), how)
}

// confirm waits for the nonce. Until it has come, nothing in a preface counts, because a client of
// a proxy may have sent it.
func confirm(conn net.Conn, nonce []byte) error {
	back := make([]byte, len(nonce))
	if _, err := io.ReadFull(conn, back); err != nil {
		return fmt.Errorf("the answer to the preface was not confirmed: %w", err)
	}
	if subtle.ConstantTimeCompare(back, nonce) != 1 {
		return errors.New("the answer to the preface was confirmed with another nonce")
	}
	return nil
}

func (d *Doorkeeper) judge(p *clusterpb.Preface, from net.Addr, how Meeting, fits func(Kind) bool) (clusterpb.Verdict, error) {
	at := from.String()
	if addr := p.GetFrom().GetGossipAddr(); addr != "" {
		at = fmt.Sprintf("%s (gossip %s)", at, addr)
	}
	switch err := d.Of.judge(p.GetFrom(), at, how); {
	case errors.Is(err, errUndecided):
		return clusterpb.Verdict_VERDICT_UNDECIDED, err
	case err != nil:
		return clusterpb.Verdict_VERDICT_OTHER_CLUSTER, err
	case p.GetTarget() != "" && p.GetTarget() != d.ServerID:
		return clusterpb.Verdict_VERDICT_OTHER_SERVER, fmt.Errorf("%w: %s, not %s", ErrWrongServer, p.GetTarget(), d.ServerID)
	case p.GetKind() != KindProbe && !fits(p.GetKind()):
		return clusterpb.Verdict_VERDICT_WRONG_PORT, fmt.Errorf("the port does not take connections of this kind (%s)", p.GetKind())
	}
	return clusterpb.Verdict_VERDICT_ACCEPTED, nil
}

// Deadline returns the context's deadline, but at most Timeout from now.
func Deadline(ctx context.Context) time.Time {
	most := time.Now().Add(Timeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(most) {
		return deadline
	}
	return most
}
