package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weirproxy/weir/limit"
)

// layers are the limits as they were written: the API's over the config's. Methods that write
// report whether anything changed. A limit that stands here is never altered, only replaced.
type layers struct {
	api, config map[limit.Pattern]*limit.Limit
}

func newLayers() layers {
	return layers{api: make(map[limit.Pattern]*limit.Limit), config: make(map[limit.Pattern]*limit.Limit)}
}

func (y *layers) of(s limit.Source) map[limit.Pattern]*limit.Limit {
	if s == limit.SourceAPI {
		return y.api
	}
	return y.config
}

// effective returns the limit that counts for a pattern.
func (y *layers) effective(pattern limit.Pattern) (limit.Limit, bool) {
	if l := cmp.Or(y.api[pattern], y.config[pattern]); l != nil {
		return *l, true
	}
	return limit.Limit{}, false
}

// all lists the effective limits, sorted by pattern.
func (y *layers) all() []limit.Limit {
	holding := make([]placed, 0, len(y.api)+len(y.config))
	for _, l := range y.api {
		holding = append(holding, place(l))
	}
	for p, l := range y.config {
		if _, covered := y.api[p]; !covered {
			holding = append(holding, place(l))
		}
	}
	slices.SortFunc(holding, placed.compare)
	all := make([]limit.Limit, len(holding))
	for i := range holding {
		all[i] = *holding[i].limit
	}
	return all
}

// placed is a limit with what it is sorted by, which is a tenth of its size.
type placed struct {
	text  string
	limit *limit.Limit
	scope limit.Scope
}

func place(l *limit.Limit) placed { return placed{l.Pattern.String(), l, l.Pattern.Scope()} }

// compare orders as [limit.Pattern.Compare] does.
func (p placed) compare(o placed) int {
	if p.scope != o.scope {
		return int(p.scope) - int(o.scope)
	}
	return strings.Compare(p.text, o.text)
}

// put writes a limit to the layer that its Source names. Writing what stands there
// already changes nothing, unless it asks for an eviction: that is an act, and may
// be wanted again. A limit keeps its Evict flag until a write changes it: were it
// cleared by a reload of the same config, a node that lags would miss it.
func (y *layers) put(index uint64, l limit.Limit) bool {
	layer := y.of(l.Source)
	if old, ok := layer[l.Pattern]; ok && old.SameValue(&l) && !l.Evict {
		return false
	}
	written := l // so that l itself, and with it a write that changes nothing, costs no memory
	written.ModifyIndex = index
	layer[l.Pattern] = &written
	return true
}

// remove deletes the API's limit, which uncovers the config's; where there is only
// the config's, that.
func (y *layers) remove(index uint64, pattern limit.Pattern) bool {
	if _, ok := y.api[pattern]; ok {
		y.uncover(index, pattern)
		return true
	}
	_, ok := y.config[pattern]
	delete(y.config, pattern)
	return ok
}

// uncover deletes the API's limit. The config's below it becomes effective now, so
// this is its last change: an ETag must not go back to one that was seen before,
// nor an old eviction be asked for again.
func (y *layers) uncover(index uint64, pattern limit.Pattern) {
	delete(y.api, pattern)
	if below := y.config[pattern]; below != nil {
		l := *below
		l.ModifyIndex, l.Evict = index, false
		y.config[pattern] = &l
	}
}

// replaceConfig makes the config layer equal limits.
func (y *layers) replaceConfig(index uint64, limits []limit.Limit) bool {
	changed := y.keepOnly(limit.SourceConfig, patternsOf(limits))
	for _, l := range limits {
		l.Source = limit.SourceConfig
		changed = y.put(index, l) || changed
	}
	return changed
}

// replaceAPI makes the effective limits equal limits. One that equals the config's
// stays the config's, so that later reloads still govern it.
func (y *layers) replaceAPI(index uint64, limits []limit.Limit) bool {
	named := patternsOf(limits)
	changed := y.keepOnly(limit.SourceAPI, named)
	changed = y.keepOnly(limit.SourceConfig, named) || changed
	for _, l := range limits {
		l.Source = limit.SourceAPI
		if c, ok := y.config[l.Pattern]; ok && c.SameValue(&l) {
			if _, covered := y.api[l.Pattern]; covered {
				y.uncover(index, l.Pattern)
				changed = true
			}
			l.Source = limit.SourceConfig
		}
		changed = y.put(index, l) || changed
	}
	return changed
}

// restore makes both layers equal limits, each in the layer that its Source names.
func (y *layers) restore(index uint64, limits []limit.Limit) bool {
	byLayer := splitLayers(limits)
	named := patternsOf(byLayer.api)
	changed := false
	for pattern := range y.api {
		if !named[pattern] {
			y.uncover(index, pattern) // the config's limit may become effective
			changed = true
		}
	}
	changed = y.keepOnly(limit.SourceConfig, patternsOf(byLayer.config)) || changed
	for _, l := range byLayer.config {
		changed = y.put(index, l) || changed
	}
	for _, l := range byLayer.api {
		changed = y.put(index, l) || changed
	}
	return changed
}

// limitLists are limits by layer.
type limitLists struct{ api, config []limit.Limit }

func splitLayers(limits []limit.Limit) (lists limitLists) {
	for _, l := range limits {
		if l.Source == limit.SourceAPI {
			lists.api = append(lists.api, l)
		} else {
			lists.config = append(lists.config, l)
		}
	}
	return lists
}

// Effective are the limits that hold of both layers', sorted by pattern: the API's over the
// config's.
func Effective(limits []limit.Limit) []limit.Limit {
	y := newLayers()
	for _, l := range limits {
		y.of(l.Source)[l.Pattern] = &l
	}
	return y.all()
}

// keepOnly deletes all limits of a layer but those named.
func (y *layers) keepOnly(s limit.Source, named map[limit.Pattern]bool) bool {
	layer := y.of(s)
	before := len(layer)
	for pattern := range layer {
		if !named[pattern] {
			delete(layer, pattern)
		}
	}
	return len(layer) != before
}

func patternsOf(limits []limit.Limit) map[limit.Pattern]bool {
	named := make(map[limit.Pattern]bool, len(limits))
	for i := range limits {
		named[limits[i].Pattern] = true
	}
	return named
}

// validateAll verifies limits that are written together.
func validateAll(limits []limit.Limit) error {
	seen := make(map[limit.Pattern]bool, len(limits))
	for i := range limits {
		l := &limits[i]
		if err := l.Validate(); err != nil {
			return err
		}
		if seen[l.Pattern] {
			return fmt.Errorf("%w: limit %q: it stands twice", limit.ErrInvalid, l.Name())
		}
		seen[l.Pattern] = true
	}
	return nil
}

// validateLayers verifies limits of both layers.
func validateLayers(limits []limit.Limit) error {
	for i := range limits {
		if err := validateSource(limits[i].Source); err != nil {
			return err
		}
	}
	lists := splitLayers(limits)
	return errors.Join(validateAll(lists.api), validateAll(lists.config))
}

// sameShape reports whether two sorted lists count the same things in the same way.
func sameShape(a, b []limit.Limit) bool {
	return slices.EqualFunc(a, b, func(x, y limit.Limit) bool { return x.SameShape(&y) })
}
