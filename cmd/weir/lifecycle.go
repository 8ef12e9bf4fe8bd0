package main

import (
	"context"
	"fmt"

	"github.com/weirproxy/weir/api"
)

// The API's actions on the node as a whole.

// Drain implements [api.Lifecycle].
func (a *agent) Drain(context.Context) error {
	a.turning.Lock()
	defer a.turning.Unlock()
	if a.isLeaving() || a.proxy.Draining() {
		return nil
	}
	a.log.Info("draining: no new connections; those that are open may end")
	a.proxy.SetDraining(true)
	a.manager.Drain()
	a.members.SetDraining(true)
	a.events.Drain(true)
	return nil
}

// Undrain implements [api.Lifecycle].
func (a *agent) Undrain(context.Context) error {
	a.turning.Lock()
	defer a.turning.Unlock()
	if a.isLeaving() {
		return fmt.Errorf("%w: %s is stopping or leaving the cluster, which can't be taken back: start it again instead", api.ErrConflict, a.name())
	}
	if !a.proxy.Draining() {
		return nil
	}
	a.log.Info("no longer draining: new connections are taken again")
	a.manager.Undrain()
	a.proxy.SetDraining(false)
	a.members.SetDraining(false)
	a.events.Drain(false)
	return nil
}

func (a *agent) isLeaving() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaving
}

// setLeaving records that the node stops. From then on draining can't be ended.
func (a *agent) setLeaving() {
	a.turning.Lock()
	defer a.turning.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = true
}

// Leave implements [api.Lifecycle].
func (a *agent) Leave(context.Context) error {
	a.setLeaving()
	a.leave()
	return nil
}
