package cluster

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

// doorkeeper does this node's part of the handshake that begins a connection between nodes, at
// either end:
//
//	preface →            the connection's purpose, and the node that opens it
//	        ← greeting, answer   the node that listens, its verdict, and a nonce
//	nonce →              before anything else
//
// The nonce costs a round trip for each connection. It proves that the dialling end has read the
// answer, which a client of a proxy can't (see [Greeting]). Both ends judge whether the other
// belongs to their cluster, and both can log the reason.
type doorkeeper struct {
	name     string
	serverID string // "" takes any target
	of       *affiliation
	// introduction, if not nil, adds the changing facts about this node.
	introduction func(*clusterpb.Introduction)
	// heard, if not nil, receives the preface of each node that has read the answer, even if that
	// node is refused.
	heard func(p *clusterpb.Preface, from net.Addr)
}

func (d *doorkeeper) introduce() *clusterpb.Introduction {
	i := &clusterpb.Introduction{Node: d.name, Cluster: d.of.cluster()}
	if d.introduction != nil {
		d.introduction(i)
	}
	return i
}

// open asks for admission on a connection that was just dialled, and returns the other node. The
// caller has set a deadline and closes the connection on an error.
func (d *doorkeeper) open(conn net.Conn, k kind, target string, at string, how meeting) (*clusterpb.Introduction, error) {
	preface, err := appendPreface(nil, &clusterpb.Preface{Kind: k, Target: target, From: d.introduce()})
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
	if k != kindProbe { // even if this end refuses: the other node believes the preface only now
		if _, err := conn.Write(answer.GetNonce()); err != nil {
			return other, err
		}
	}
	if err := d.of.judge(other, at, how); err != nil {
		return other, err
	}
	switch answer.GetVerdict() {
	case clusterpb.Verdict_VERDICT_ACCEPTED:
	case clusterpb.Verdict_VERDICT_OTHER_SERVER:
		return other, errWrongServer
	case clusterpb.Verdict_VERDICT_UNDECIDED:
		return other, errUndecided
	case clusterpb.Verdict_VERDICT_WRONG_PORT:
		return other, fmt.Errorf("node %s at %s takes no such connection on that port: check which of its ports the address names", other.GetNode(), at)
	default:
		return other, fmt.Errorf("node %s at %s refuses the connection (%s)", other.GetNode(), at, answer.GetVerdict())
	}
	return other, nil
}

// answer admits or refuses a connection that was just accepted and begins with preface, on a port
// that takes the kinds that fit. The caller has set a deadline and closes the connection on an
// error.
func (d *doorkeeper) answer(conn net.Conn, preface *clusterpb.Preface, fits func(kind) bool) error {
	how := metAccepted
	if preface.GetTarget() != "" && preface.GetTarget() == d.serverID {
		how = metMeant
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
	if preface.GetKind() == kindProbe {
		return refused
	}
	if err := confirm(conn, nonce); err != nil {
		return cmp.Or(refused, err)
	}
	if d.heard != nil {
		d.heard(preface, conn.RemoteAddr())
	}
	if refused != nil {
		return refused
	}
	return d.of.follow(preface.GetFrom(), how)
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

func (d *doorkeeper) judge(p *clusterpb.Preface, from net.Addr, how meeting, fits func(kind) bool) (clusterpb.Verdict, error) {
	at := from.String()
	if addr := p.GetFrom().GetGossipAddr(); addr != "" {
		at = fmt.Sprintf("%s (gossip %s)", at, addr)
	}
	switch err := d.of.judge(p.GetFrom(), at, how); {
	case errors.Is(err, errUndecided):
		return clusterpb.Verdict_VERDICT_UNDECIDED, err
	case err != nil:
		return clusterpb.Verdict_VERDICT_OTHER_CLUSTER, err
	case p.GetTarget() != "" && p.GetTarget() != d.serverID:
		return clusterpb.Verdict_VERDICT_OTHER_SERVER, fmt.Errorf("%w: %s, not %s", errWrongServer, p.GetTarget(), d.serverID)
	case p.GetKind() != kindProbe && !fits(p.GetKind()):
		return clusterpb.Verdict_VERDICT_WRONG_PORT, fmt.Errorf("the port does not take connections of this kind (%s)", p.GetKind())
	}
	return clusterpb.Verdict_VERDICT_ACCEPTED, nil
}

// deadlineOf returns the context's deadline, but at most prefaceTimeout from now.
func deadlineOf(ctx context.Context) time.Time {
	most := time.Now().Add(prefaceTimeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(most) {
		return deadline
	}
	return most
}
