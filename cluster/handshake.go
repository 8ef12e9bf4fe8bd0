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

// doorkeeper speaks for this node where a connection to another node begins, at either end:
//
//	preface →            what the connection is for, and who opens it
//	        ← greeting, answer   who listens, a verdict, and a nonce
//	nonce →              before anything else
//
// The nonce costs a round trip for each connection, and shows that the one who dialled has read the
// answer: a client of a proxy has not (see [Greeting]). Both ends judge whether the other is of
// their cluster, and both have what they need to log the reason.
type doorkeeper struct {
	name     string
	serverID string // "" takes any target
	of       *affiliation
	// introduction, if not nil, adds what changes to what the node says of itself.
	introduction func(*clusterpb.Introduction)
	// heard, if not nil, is told of each preface of another node that has read the answer, also of
	// those that are refused.
	heard func(p *clusterpb.Preface, from net.Addr)
}

func (d *doorkeeper) introduce() *clusterpb.Introduction {
	i := &clusterpb.Introduction{Node: d.name, Cluster: d.of.cluster()}
	if d.introduction != nil {
		d.introduction(i)
	}
	return i
}

// open asks for admission on a connection that has just been dialled, and returns who answered. The
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
	if k != kindProbe { // also where nothing comes of it: the other node believes what was said only then
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

// answer admits or refuses a connection that has just been accepted and begins with preface, on a
// port that takes the kinds that fit. The caller has set a deadline and closes the connection on an
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

// confirm waits for the nonce. Nothing that a preface says counts before: it may come from the
// client of a proxy.
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

// deadlineOf is the context's, and prefaceTimeout at most.
func deadlineOf(ctx context.Context) time.Time {
	most := time.Now().Add(prefaceTimeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(most) {
		return deadline
	}
	return most
}
