package weir

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirproxy/weir/api/server"
)

// The API's actions on the node as a whole.

// Drain implements [server.Lifecycle].
func (v view) Drain(context.Context) error {
	v.turning.Lock()
	defer v.turning.Unlock()
	if v.isStopping() || v.proxy.Draining() {
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
	if v.isStopping() {
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

// Leave implements [server.Lifecycle].
func (v view) Leave(context.Context) error {
	if v.isLeaving() {
		return nil
	}
	if err := v.members.CheckLeave(); err != nil {
		return apiError(err)
	}
	return v.startLeaving()
}

// startLeaving makes the node leave its cluster: also one that stops already, until it says
// goodbye, which is when it is decided whether it leaves.
func (n *Node) startLeaving() error {
	n.turning.Lock()
	defer n.turning.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.isLeaving():
		return nil
	case n.parting || n.Err() != nil:
		return fmt.Errorf("%w: %s is about to end, and no longer leaves the cluster: start it again to make it leave%s",
			server.ErrConflict, n.name(), n.orRemove())
	}
	n.stopping = true
	n.stop(ErrLeave)
	return nil
}

// orRemove is the other way to take a server that has ended out of the Raft configuration.
func (n *Node) orRemove() string {
	if n.store == nil {
		return ""
	}
	return fmt.Sprintf(", or remove it once it has ended (weir raft remove %s)", n.name())
}

// isLeaving reports whether the node stops because it leaves its cluster.
func (n *Node) isLeaving() bool { return errors.Is(n.Err(), ErrLeave) }

// isStopping reports whether the node stops, for whatever reason.
func (n *Node) isStopping() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopping
}

// setStopping records that the node stops. From then on draining can't be ended.
func (n *Node) setStopping() {
	n.turning.Lock()
	defer n.turning.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopping = true
}

// part records that the node says goodbye, and returns whether it leaves: nobody can make it leave
// any more.
func (n *Node) part() (leave bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parting = true
	return n.isLeaving()
}
