package fsm

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// ledger holds the grants: per key one compact entry, since there may be very many
// keys and each is held by few sessions. A key without grants has none.
type ledger map[limit.Key]*holding

// holding is who holds slots of one key.
type holding struct {
	total int64          // the sum of slots
	slots []SessionSlots // by session id, each > 0
}

func (h *holding) find(session uint64) (int, bool) {
	return slices.BinarySearchFunc(h.slots, session, func(s SessionSlots, id uint64) int { return cmp.Compare(s.Session, id) })
}

// of is one session's grant. A key without an entry has a nil holding.
func (h *holding) of(session uint64) int64 {
	if h == nil {
		return 0
	}
	if i, ok := h.find(session); ok {
		return h.slots[i].Slots
	}
	return 0
}

// sum is what all sessions hold.
func (h *holding) sum() int64 {
	if h == nil {
		return 0
	}
	return h.total
}

// add changes a session's grant of a key by delta, which must leave it ≥ 0.
func (g ledger) add(session uint64, key limit.Key, delta int64) { g.addTo(g[key], session, key, delta) }

// addTo is add where the key's entry, perhaps nil, has been looked up already.
func (g ledger) addTo(h *holding, session uint64, key limit.Key, delta int64) {
	if delta == 0 {
		return
	}
	if h == nil {
		h = &holding{}
		g[key] = h
	}
	i, found := h.find(session)
	if !found {
		h.slots = slices.Insert(h.slots, i, SessionSlots{Session: session})
	}
	h.slots[i].Slots += delta
	h.total += delta
	if h.slots[i].Slots == 0 {
		h.slots = slices.Delete(h.slots, i, i+1)
	}
	if len(h.slots) == 0 {
		delete(g, key)
	}
}

// free takes everything from the sessions given and lists it by session, then key.
func (g ledger) free(sessions map[uint64]bool) []Adjustment {
	var freed []Adjustment
	for key, h := range g {
		for _, s := range h.slots {
			if sessions[s.Session] {
				freed = append(freed, Adjustment{Session: s.Session, Key: key, Delta: s.Slots})
			}
		}
	}
	slices.SortFunc(freed, compareAdjustments)
	for i := range freed {
		g.add(freed[i].Session, freed[i].Key, -freed[i].Delta)
	}
	return freed
}

// held lists what one session holds, by key.
func (g ledger) held(session uint64) []Adjustment {
	var held []Adjustment
	for key, h := range g {
		if n := h.of(session); n > 0 {
			held = append(held, Adjustment{Session: session, Key: key, Delta: n})
		}
	}
	slices.SortFunc(held, compareAdjustments)
	return held
}

// keys lists the keys that are granted to anybody, sorted.
func (g ledger) keys() []limit.Key {
	return slices.SortedFunc(maps.Keys(g), limit.Key.Compare)
}

func compareAdjustments(a, b Adjustment) int {
	return cmp.Or(cmp.Compare(a.Session, b.Session), a.Key.Compare(b.Key))
}
