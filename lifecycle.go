package weir

import (
	"context"
	"fmt"

	"github.com/weirproxy/weir/api/server"
)

// The API's actions on the node as a whole.

// Drain implements [server.Lifecycle].
func (v view) Drain(context.Context) error {
	v.turning.Lock()
	defer v.turning.Unlock()
	if v.isLeaving() || v.proxy.Draining() {
		return nil
	}
	v.log.Info("draining: no new connections; those that are open may end")
	v.proxy.SetDraining(true)
	v.manager.Drain()
	v.members.SetDraining(true)
	v.events.Drain(true)
	return nil
}

// Undrain implements [server.Lifecycle].
func (v view) Undrain(context.Context) error {
	v.turning.Lock()
	defer v.turning.Unlock()
	if v.isLeaving() {
		return fmt.Errorf("%w: %s is stopping or leaving the cluster, which can't be taken back: start it again instead", server.ErrConflict, v.name())
	}
	if !v.proxy.Draining() {
		return nil
	}
	v.log.Info("no longer draining: new connections are taken again")
	v.manager.Undrain()
	v.proxy.SetDraining(false)
	v.members.SetDraining(false)
	v.events.Drain(false)
	return nil
}

func (n *Node) isLeaving() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leaving
}

// setLeaving records that the node stops. From then on draining can't be ended.
func (n *Node) setLeaving() {
	n.turning.Lock()
	defer n.turning.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaving = true
}

// Leave implements [server.Lifecycle].
func (v view) Leave(context.Context) error {
	v.setLeaving()
	v.stop(ErrLeave)
	return nil
}
