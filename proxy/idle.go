package proxy

import (
	"sync"

	"github.com/weirproxy/weir/fsm"
)

// idlePool holds the upstream connections that are kept for reuse, by target. Each still holds its slot.
type idlePool struct {
	mu    sync.Mutex
	total int
	flows map[fsm.Target][]*flow
}

// put offers a connection; false says that enough are kept.
func (p *idlePool) put(f *flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.flows[f.target]
	if p.total >= maxIdle || len(list) >= maxIdlePerTarget {
		return false
	}
	if p.flows == nil {
		p.flows = make(map[fsm.Target][]*flow)
	}
	p.flows[f.target] = append(list, f)
	p.total++
	return true
}

// take returns the connection that was used last: it is the likeliest to be still open.
func (p *idlePool) take(t fsm.Target) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.flows[t]
	if len(list) == 0 {
		return nil
	}
	f := list[len(list)-1]
	p.drop(t, len(list)-1)
	return f
}

// remove takes f out, if it is in.
func (p *idlePool) remove(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, g := range p.flows[f.target] {
		if g == f {
			p.drop(f.target, i)
			return
		}
	}
}

// drop takes out the i-th flow of a target, keeping the order.
func (p *idlePool) drop(t fsm.Target, i int) {
	list := p.flows[t]
	copy(list[i:], list[i+1:])
	list[len(list)-1] = nil
	p.total--
	if len(list) == 1 {
		delete(p.flows, t)
		return
	}
	p.flows[t] = list[:len(list)-1]
}

// all copies what is kept.
func (p *idlePool) all() []*flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	flows := make([]*flow, 0, p.total)
	for _, list := range p.flows {
		flows = append(flows, list...)
	}
	return flows
}
