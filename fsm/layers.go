package fsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// layers are the limits as they were written: the API's over the config's. Keys
// are the patterns' texts. Methods that write report whether anything changed.
type layers struct {
	api, config map[string]limit.Limit
}

func newLayers() layers {
	return layers{api: make(map[string]limit.Limit), config: make(map[string]limit.Limit)}
}

func (y *layers) of(s limit.Source) map[string]limit.Limit {
	if s == limit.SourceAPI {
		return y.api
	}
	return y.config
}

// effective returns the limit that counts for a pattern.
func (y *layers) effective(pattern string) (limit.Limit, bool) {
	if l, ok := y.api[pattern]; ok {
		return l, true
	}
	l, ok := y.config[pattern]
	return l, ok
}

// all lists the effective limits, sorted by pattern.
func (y *layers) all() []limit.Limit {
	// Sorting the texts moves a tenth of the memory that sorting the limits would.
	texts := make([]string, 0, len(y.api)+len(y.config))
	for text := range y.api {
		texts = append(texts, text)
	}
	for text := range y.config {
		if _, covered := y.api[text]; !covered {
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	all := make([]limit.Limit, len(texts))
	for i, text := range texts {
		all[i], _ = y.effective(text)
	}
	return all
}

// put writes a limit to the layer that its Source names. Writing what stands there
// already changes nothing, unless it asks for an eviction: that is an act, and may
// be wanted again. A limit keeps its Evict flag until a write changes it: were it
// cleared by a reload of the same config, a node that lags would miss it.
func (y *layers) put(index uint64, l limit.Limit) bool {
	layer := y.of(l.Source)
	if old, ok := layer[l.Pattern.String()]; ok && old.SameValue(&l) && !l.Evict {
		return false
	}
	l.ModifyIndex = index
	layer[l.Pattern.String()] = l
	return true
}

// remove deletes the API's limit, which uncovers the config's; where there is only
// the config's, that.
func (y *layers) remove(index uint64, pattern string) bool {
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
func (y *layers) uncover(index uint64, pattern string) {
	delete(y.api, pattern)
	if l, ok := y.config[pattern]; ok {
		l.ModifyIndex, l.Evict = index, false
		y.config[pattern] = l
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
		if c, ok := y.config[l.Pattern.String()]; ok && c.SameValue(&l) {
			if _, covered := y.api[l.Pattern.String()]; covered {
				y.uncover(index, l.Pattern.String())
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
		y.of(l.Source)[l.Pattern.String()] = l
	}
	return y.all()
}

// keepOnly deletes all limits of a layer but those named.
func (y *layers) keepOnly(s limit.Source, named map[string]bool) bool {
	layer := y.of(s)
	before := len(layer)
	for pattern := range layer {
		if !named[pattern] {
			delete(layer, pattern)
		}
	}
	return len(layer) != before
}

func patternsOf(limits []limit.Limit) map[string]bool {
	named := make(map[string]bool, len(limits))
	for i := range limits {
		named[limits[i].Pattern.String()] = true
	}
	return named
}

// validateAll verifies limits that are written together.
func validateAll(limits []limit.Limit) error {
	seen := make(map[string]bool, len(limits))
	for i := range limits {
		l := &limits[i]
		if err := l.Validate(); err != nil {
			return err
		}
		if seen[l.Pattern.String()] {
			return fmt.Errorf("%w: limit %q: it stands twice", limit.ErrInvalid, l.Pattern.String())
		}
		seen[l.Pattern.String()] = true
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

// sameShape reports whether two sorted lists have the same patterns, each with the
// same Shared flag and in both with or without a cap.
func sameShape(a, b []limit.Limit) bool {
	return slices.EqualFunc(a, b, func(x, y limit.Limit) bool {
		return x.Pattern == y.Pattern && x.Shared == y.Shared && x.Capped() == y.Capped()
	})
}
